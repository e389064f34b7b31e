"""CSV, TSV and Parquet files with one image a line: path, label[, domain][, split][, caption]."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...core.errors import UserError
from ..decode import file_size
from .table import FilesUnder, ImageRecord, ImageTable, part_named

SUFFIXES = frozenset({".csv", ".tsv", ".parquet"})
# Field of a row -> names its column may have, the first being the documented one.
COLUMNS = {
    "path": ("path", "filepath", "file", "filename", "file_name", "image", "image_path"),
    "label": ("label", "class", "category", "class_name"),
    "domain": ("domain",),
    "split": ("split",),
    "caption": ("caption", "text", "title"),
}


def read_table(
    path: Path,
    *,
    root: Path | None = None,
    columns: Mapping[str, str] | None = None,
    names: Mapping[str, str] | None = None,
    max_broken: float = 0.01,
) -> ImageTable:
    """A table file as a data set; rows stay in the file's order.

    Args:
        path: .csv, .tsv or .parquet with a line of column names.
        root: folder that relative image paths start from. Default: the file's own.
        columns: field ("path", "label", "domain", "split", "caption") -> name of its column.
        names, max_broken: see `ImageTable`.

    Raises:
        UserError: unreadable, a column missing, a line without path or label, an unknown split.
    """
    header, lines = read_parquet(path) if path.suffix.lower() == ".parquet" else read_csv(path)
    at = find_columns(path, header, columns or {})
    base = root or path.parent
    rows = []
    for number, line in enumerate(lines, 2):
        cells = {field: str(line[i] if line[i] is not None else "").strip() for field, i in at.items()}
        for field in ("path", "label"):
            if not cells[field]:
                raise UserError(f"--data: {path}, line {number}: no {field}")
        part = part_named(cells["split"], f"{path}, line {number}") if "split" in at else ""
        key = cells["path"]
        size = file_size(base / key)
        rows.append(
            ImageRecord(
                key,
                cells["label"],
                cells.get("domain", ""),
                part,
                cells.get("caption", ""),
                size,
            )
        )
    if not rows:
        raise UserError(f"--data: {path} has no lines below its column names")
    files = FilesUnder(base, tuple(row.key for row in rows))
    return ImageTable(path.stem, rows, files, names=names, max_broken=max_broken)


def find_columns(
    path: Path, header: Sequence[str], told: Mapping[str, str], needed: Sequence[str] = ("path", "label")
) -> dict[str, int]:
    """Field -> position of its column; fields that are not `needed` may have none."""
    lower = [name.strip().lower() for name in header]
    at: dict[str, int] = {}
    for field, usual in COLUMNS.items():
        wanted = (told[field].lower(),) if field in told else usual
        match = next((name for name in wanted if name in lower), None)
        if match is not None:
            at[field] = lower.index(match)
        elif field in told or field in needed:
            near = difflib.get_close_matches(wanted[0], lower, n=1)
            hint = f" (near: {near[0]})" if near else ""
            raise UserError(
                f'--data: {path} has no column "{wanted[0]}"; it has {", ".join(header)}{hint}. '
                f"Name the right one: --data-options {field}=COLUMN"
            )
    return at


def read_csv(path: Path) -> tuple[list[str], list[list[Any]]]:
    """Column names and lines; see `csv_lines`."""
    lines = [line for _, line in csv_lines(path)]
    return lines[0], lines[1:]


def csv_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of a file, one at a time, the column names first.

    The separator is the first of tab, semicolon and comma in the header. A line with breaks inside quotes has the
    number of its last one.

    Raises:
        UserError: unreadable, empty, or a line with more or fewer cells than the header.
    """
    width = 0
    try:
        # Paths may be in any encoding: what is not UTF-8 comes back as the same bytes when opened.
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            separator = next((c for c in "\t;" if c in file.readline()), ",")
            file.seek(0)
            reader = csv.reader(file, delimiter=separator, strict=True)
            for line in reader:
                width = width or len(line)
                if line and len(line) != width:
                    raise UserError(
                        f"--data: {path}, line {reader.line_num}: {len(line)} cells under {width} column names"
                    )
                if line:
                    yield reader.line_num, line
    except (OSError, csv.Error) as error:
        raise UserError(f"--data: cannot read {path} ({error})") from None
    if not width:
        raise UserError(f"--data: {path} is empty; its first line should be path,label")


def read_parquet(path: Path) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Column names and lines."""
    table = _parquet(path, "read_table")
    return list(table.column_names), list(zip(*table.to_pydict().values(), strict=True))


def parquet_columns(path: Path) -> list[str]:
    """Column names alone."""
    return list(_parquet(path, "read_schema").names)


def _parquet(path: Path, function: str) -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise UserError(f'--data: {path} needs pyarrow; pip install "clipalign[data]"') from None
    try:
        return getattr(pyarrow.parquet, function)(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"--data: cannot read {path} ({' '.join(str(error).split())})") from None
