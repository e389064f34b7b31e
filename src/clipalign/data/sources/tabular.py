"""CSV, TSV and Parquet files with one image per line: path, label[, domain][, split][, caption]."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...core.errors import UserError
from ...core.reading import check_file
from ..decode import file_size, one_line
from .table import DEFAULTS, FilesBelow, ImageRecord, ImageTable, TableOptions, parse_part

SUFFIXES = frozenset({".csv", ".tsv", ".parquet"})
GROUP = "group"  # field of --group-column, which has no usual name
PARQUET_LIMIT = 1 << 36  # bytes: 64 GiB; such tables hold images
# Field of a record -> accepted names of its column; the first is the documented one.
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
    options: TableOptions = DEFAULTS,
) -> ImageTable:
    """Read a table of images; rows keep the order of the file.

    Args:
        path: .csv, .tsv or .parquet file with column names.
        root: folder that relative image paths start from. Default: the file's folder.
        columns: field ("path", "label", "domain", "split", "caption", "group") -> name of its column.
        options: see `TableOptions`.

    Raises:
        UserError: unreadable file, missing column, line without path or label, or unknown split.
    """
    header, lines = read_parquet(path) if path.suffix.lower() == ".parquet" else read_csv(path)
    positions = find_columns(path, header, columns or {})
    base = root or path.parent
    records = []
    for number, line in enumerate(lines, 2):
        cells = cells_of(line, positions)
        for field in ("path", "label", GROUP):
            if field in positions and not cells[field]:
                raise UserError(f"--data: {path}, line {number}: no {field}")
        key = cells["path"]
        records.append(
            ImageRecord(
                key,
                cells["label"],
                domain=cells.get("domain", ""),
                part=parse_part(cells["split"], f"{path}, line {number}") if "split" in cells else "",
                caption=cells.get("caption", ""),
                size=file_size(base / key),
                group=cells.get(GROUP, ""),
            )
        )
    if not records:
        raise UserError(f"--data: {path} has no lines below its column names")
    files = FilesBelow(base, tuple(record.key for record in records))
    return ImageTable(path.stem, records, files, options)


def find_columns(
    path: Path, header: Sequence[str], given: Mapping[str, str], required: Sequence[str] = ("path", "label")
) -> dict[str, int]:
    """Return the position of each field's column; fields that are not `required` may lack one.

    Args:
        path: the file, for messages.
        header: its column names.
        given: field -> column name set by the user; other fields use the names of `COLUMNS`.
        required: fields that must have a column.

    Raises:
        UserError: a given or required column is missing.
    """
    lower = [name.strip().lower() for name in header]
    positions: dict[str, int] = {}
    for field, usual in {**COLUMNS, GROUP: ()}.items():
        names = (given[field].lower(),) if field in given else usual
        match = next((name for name in names if name in lower), None)
        if match is not None:
            positions[field] = lower.index(match)
        elif field in given or field in required:
            near = difflib.get_close_matches(names[0], lower, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            option = "--group-column COLUMN" if field == GROUP else f"--data-options {field}=COLUMN"
            raise UserError(
                f'--data: {path} has no column "{names[0]}"; it has {", ".join(header)}{hint}. '
                f"Name the column with {option}"
            )
    return positions


def cells_of(line: Sequence[Any], positions: Mapping[str, int]) -> dict[str, str]:
    """Return the text of each field in a line, "" for empty cells."""
    return {field: str(line[i] if line[i] is not None else "").strip() for field, i in positions.items()}


def read_csv(path: Path) -> tuple[list[str], list[list[Any]]]:
    """Return column names and lines; see `csv_lines`."""
    lines = [line for _, line in csv_lines(path)]
    return lines[0], lines[1:]


def csv_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells) of a file, starting with the column names.

    The separator is the first of tab, semicolon and comma that the header contains. A line with line breaks inside
    quotes has the number of its last line.

    Raises:
        UserError: unreadable or empty file, or a line whose number of cells differs from the header's.
    """
    width = 0
    check_file(path, "--data: ")
    try:
        # Paths may be in any encoding; surrogateescape restores their bytes when the file is opened.
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
    """Return column names and lines."""
    table = _open_parquet(path)
    return list(table.column_names), list(zip(*table.to_pydict().values(), strict=True))


def parquet_columns(path: Path) -> list[str]:
    """Return the column names without reading the lines."""
    return list(_open_parquet(path, schema_only=True).names)


def _open_parquet(path: Path, schema_only: bool = False) -> Any:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise UserError(f'--data: {path} needs pyarrow; pip install "clipalign[data]"') from None
    check_file(path, "--data: ", PARQUET_LIMIT)
    try:
        return parquet.read_schema(path) if schema_only else parquet.read_table(path)
    except (OSError, ArrowException) as error:
        raise UserError(f"--data: cannot read {path} ({one_line(error)})") from None
