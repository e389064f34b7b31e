"""Caption files of the user: tables, JSON lists, ShareGPT4V's JSON and tar shards."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...core.errors import UserError
from ..decode import file_size
from ..sources.shards import ShardFiles, expand_shards, part_of_shard, read_index
from ..sources.table import DEFAULTS, PARTS, FilesBelow, TableOptions, parse_part
from ..sources.tabular import cells_of, csv_lines, find_columns, parquet_columns, read_parquet
from .json_list import json_entries
from .table import UNLABELLED, CaptionRecord, CaptionTable

SHARE_TEST = 1000  # the first entries of ShareGPT4V's file are the test set "ShareGPT4V-1k"


def read_caption_table(
    path: Path,
    *,
    root: Path | None = None,
    columns: Mapping[str, str] | None = None,
    options: TableOptions = DEFAULTS,
) -> CaptionTable:
    """Read a CSV, TSV or Parquet file of path, caption[, label][, domain][, split].

    Lines with the same path are captions of one image; a training step draws one of them.

    Args:
        path, root, columns, options: as in `read_table`.

    Raises:
        UserError: unreadable file, missing column, line without path or caption, or unknown split.
    """
    base = root or path.parent

    def records() -> Iterator[CaptionRecord]:
        lines: Iterator[tuple[int, Sequence[Any]]]
        if path.suffix.lower() == ".parquet":
            header, content = read_parquet(path)
            lines = iter(enumerate(content, 2))
        else:
            lines = csv_lines(path)
            header = list(next(lines)[1])
        positions = find_columns(path, header, columns or {}, required=("path", "caption"))
        for number, line in lines:
            cells = cells_of(line, positions)
            where = f"{path}, line {number}"
            if not cells["path"]:
                raise UserError(f"--data: {where}: no path")
            key = os.path.normpath(cells["path"])
            yield CaptionRecord(
                key,
                (cells["caption"],),
                where,
                part=parse_part(cells["split"], where) if "split" in cells else "",
                label=cells.get("label") or UNLABELLED,
                domain=cells.get("domain", ""),
                size=file_size(base / key),
            )

    return CaptionTable(path.stem, records(), lambda keys: FilesBelow(base, keys), options)


def read_caption_json(
    path: Path, *, root: Path | None = None, options: TableOptions = DEFAULTS
) -> CaptionTable:
    """Read a JSON list of {image, caption | captions[, label][, domain][, split]} or of ShareGPT4V's entries.

    An entry of ShareGPT4V is {image, conversations}: its caption is the value of the second turn, and the first 1,000
    entries are the test set.

    Args:
        path, root, options: as in `read_table`.

    Raises:
        UserError: unreadable file, not a list, an entry without image or caption, or an unknown split.
    """
    base = root or path.parent
    return CaptionTable(path.stem, json_records(path, base), lambda keys: FilesBelow(base, keys), options)


def read_caption_shards(name: str, options: TableOptions = DEFAULTS) -> CaptionTable:
    """Index tar shards whose records have a .txt, or a .json with caption or captions; see `read_shards`.

    Raises:
        UserError: no such shards, or an image without a caption.
    """
    paths = expand_shards(name)
    # In several folders, shards may share a name; then keys start with the whole path.
    ambiguous = len({path.name for path in paths}) < len(paths)
    # If all shards are named train-..., their names do not define a test part.
    parts = {path: part_of_shard(path) for path in paths}
    parts = {} if set(parts.values()) == {"train"} else parts
    places: list[tuple[int, int, int]] = []

    def records() -> Iterator[CaptionRecord]:
        for number, path in enumerate(paths):
            for key, (offset, size), fields in read_index(path):
                captions = fields.get("captions", fields.get("caption", ()))
                part = str(fields.get("split", parts.get(path, "")))
                places.append((number, offset, size))
                yield CaptionRecord(
                    f"{path if ambiguous else path.name}/{key}",
                    [captions] if isinstance(captions, str) else [str(caption) for caption in captions],
                    f"{path}, {key}",
                    part=PARTS.get(part.lower(), ""),
                    label=str(fields.get("label", UNLABELLED)),
                    domain=str(fields.get("domain", "")),
                    size=size,
                )

    folder = paths[0].parent.resolve().name
    return CaptionTable(folder, records(), lambda _: ShardFiles(tuple(paths), tuple(places)), options)


def table_has_only_captions(path: Path, columns: Mapping[str, str]) -> bool:
    """Return whether a table has a caption column and no label column."""
    header = parquet_columns(path) if path.suffix.lower() == ".parquet" else next(csv_lines(path))[1]
    given = {field: column for field, column in columns.items() if field != "label"}
    positions = find_columns(path, header, given, required=())
    return "caption" in positions and "label" not in positions and "label" not in columns


def shards_have_only_captions(name: str) -> bool:
    """Return whether the first record of shards has a caption and no label."""
    fields = next((fields for _, _, fields in read_index(expand_shards(name)[0])), {})
    return "label" not in fields and bool({"caption", "captions"} & set(fields))


def json_records(path: Path, base: Path) -> Iterator[CaptionRecord]:
    """Yield the entries of a JSON list, with image paths relative to `base`; see `read_caption_json`."""
    for number, entry in enumerate(json_entries(path), 1):
        where = f"{path}, entry {number}"
        try:
            key = os.path.normpath(str(entry["image"]))
            part = ""
            if "conversations" in entry:
                captions = entry["conversations"][1]["value"]
                part = "test" if number <= SHARE_TEST else "train"
            else:
                captions = entry["captions"] if "captions" in entry else entry["caption"]
            captions = [captions] if isinstance(captions, str) else captions
            if not all(isinstance(caption, str) for caption in captions):
                raise TypeError("a caption is not a string")
        except (KeyError, IndexError, TypeError) as error:
            raise UserError(
                f"--data: {where}: not {{image, caption}} or {{image, conversations}} ({error!r})"
            ) from None
        if "split" in entry:
            part = parse_part(str(entry["split"]), where)
        label, domain = str(entry.get("label", UNLABELLED)), str(entry.get("domain", ""))
        yield CaptionRecord(key, captions, where, part, label, domain, file_size(base / key))
