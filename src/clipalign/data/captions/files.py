"""Readers of the user's own captions: a table, a JSON list, ShareGPT4V's JSON, tar shards."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...core.errors import UserError
from ..decode import file_size, said
from ..sources.shards import ShardFiles, expand, part_of_shard, samples
from ..sources.table import PARTS, FilesUnder, part_named
from ..sources.tabular import csv_lines, find_columns, parquet_columns, read_parquet
from .table import UNLABELLED, CaptionRecord, CaptionTable

SHARE_TEST = 1000  # the first entries of ShareGPT4V's file are the test set "ShareGPT4V-1k"
CHUNK = 1 << 20  # characters of JSON read at a time
LARGEST_ENTRY = 1 << 26  # characters after which an entry is taken for damaged
BETWEEN = re.compile(r"[\s,]*")  # entries of a list


def read_caption_table(
    path: Path, *, root: Path | None = None, columns: Mapping[str, str] | None = None, **settings: Any
) -> CaptionTable:
    """A CSV, TSV or Parquet file of path, caption[, label][, domain][, split]; see `tabular.read_table`.

    Lines with one path are captions of one image, the first being the one to train on.

    Raises:
        UserError: unreadable, a column missing, a line without path or caption, an unknown split.
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
        at = find_columns(path, header, columns or {}, needed=("path", "caption"))
        for number, line in lines:
            cells = {field: str(line[i] if line[i] is not None else "").strip() for field, i in at.items()}
            where = f"{path}, line {number}"
            if not cells["path"]:
                raise UserError(f"--data: {where}: no path")
            part = part_named(cells["split"], where) if "split" in cells else ""
            key = os.path.normpath(cells["path"])
            label = cells.get("label") or UNLABELLED
            size = file_size(base / key)
            yield CaptionRecord(key, (cells["caption"],), where, part, label, cells.get("domain", ""), size)

    return CaptionTable(path.stem, records(), lambda keys: FilesUnder(base, keys), **settings)


def read_caption_json(path: Path, *, root: Path | None = None, **settings: Any) -> CaptionTable:
    """A JSON list: {image, caption | captions[, label][, domain][, split]}, or ShareGPT4V's {image, conversations}.

    Of ShareGPT4V's form the caption is the value of the second turn, and the first 1,000 entries are the test set.

    Raises:
        UserError: unreadable, no list, an entry without image or caption, an unknown split.
    """
    base = root or path.parent
    return CaptionTable(path.stem, json_records(path, base), lambda keys: FilesUnder(base, keys), **settings)


def captions_alone(path: Path, columns: Mapping[str, str]) -> bool:
    """Whether a table has a column of captions and none of labels."""
    header = parquet_columns(path) if path.suffix.lower() == ".parquet" else next(csv_lines(path))[1]
    at = find_columns(path, header, {k: v for k, v in columns.items() if k != "label"}, needed=())
    return "caption" in at and "label" not in at and "label" not in columns


def shard_captions_alone(name: str) -> bool:
    """Whether the first sample of shards has a caption and no label."""
    facts = next((facts for _, _, facts in samples(expand(name)[0])), {})
    return "label" not in facts and bool({"caption", "captions"} & set(facts))


def json_records(path: Path, base: Path) -> Iterator[CaptionRecord]:
    """Entries of a JSON list; see `read_caption_json`."""
    for number, entry in enumerate(entries(path), 1):
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
                raise TypeError("a caption that is no text")
        except (KeyError, IndexError, TypeError) as error:
            raise UserError(
                f"--data: {where}: not {{image, caption}} or {{image, conversations}} ({error!r})"
            ) from None
        if "split" in entry:
            part = part_named(str(entry["split"]), where)
        label, domain = str(entry.get("label", UNLABELLED)), str(entry.get("domain", ""))
        yield CaptionRecord(key, captions, where, part, label, domain, file_size(base / key))


def read_caption_shards(name: str, **settings: Any) -> CaptionTable:
    """Tar shards whose samples have a .txt file, or a .json with caption or captions; see `shards.read_shards`.

    Raises:
        UserError: no such shards, a sample without a caption.
    """
    paths = expand(name)
    alike = len({path.name for path in paths}) < len(paths)  # shards of one name in several folders
    # Shards that are all called train-... say nothing of a test.
    parts = {path: part_of_shard(path) for path in paths}
    parts = {} if set(parts.values()) == {"train"} else parts
    places: list[tuple[int, int, int]] = []

    def records() -> Iterator[CaptionRecord]:
        for number, path in enumerate(paths):
            for key, place, facts in samples(path):
                captions = facts.get("captions", facts.get("caption", ()))
                part = str(facts.get("split", parts.get(path, "")))
                places.append((number, *place))
                yield CaptionRecord(
                    f"{path if alike else path.name}/{key}",
                    [captions] if isinstance(captions, str) else [str(caption) for caption in captions],
                    f"{path}, {key}",
                    PARTS.get(part.lower(), ""),
                    str(facts.get("label", UNLABELLED)),
                    str(facts.get("domain", "")),
                    place[1],
                )

    short = paths[0].parent.resolve().name
    return CaptionTable(short, records(), lambda _: ShardFiles(tuple(paths), tuple(places)), **settings)


def entries(path: Path) -> Iterator[Any]:
    """Entries of a JSON list of any length, one at a time.

    Raises:
        UserError: unreadable, or no list.
    """
    decoder, buffer, position, opened = json.JSONDecoder(), "", 0, False
    try:
        with path.open(encoding="utf-8-sig") as file:
            while more := file.read(CHUNK):
                buffer, position = buffer[position:] + more, 0
                if not opened and not buffer.strip():
                    continue
                if not opened:
                    if not buffer.lstrip().startswith("["):
                        raise ValueError("it is no list of entries")
                    opened, position = True, buffer.index("[") + 1
                while True:
                    position += len(BETWEEN.match(buffer, position)[0])  # type: ignore[index]
                    if buffer[position : position + 1] == "]":
                        return
                    try:
                        entry, position = decoder.raw_decode(buffer, position)
                    except json.JSONDecodeError as error:
                        if len(buffer) - position > LARGEST_ENTRY:
                            raise ValueError(said(error)) from None
                        break  # the rest of the entry is still in the file
                    yield entry
            raise ValueError("it ends within the list")
    except (OSError, ValueError) as error:
        raise UserError(f"--data: cannot read {path} ({said(error)})") from None
