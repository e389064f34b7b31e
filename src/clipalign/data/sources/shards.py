"""Tar shards in the webdataset format, read in place.

A shard is indexed once by its headers; then each image takes one seek and one read. Shards therefore are an
`ImageTable` that can be split, sampled at random and resumed, unlike a stream.
"""

from __future__ import annotations

import glob
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...core.errors import UserError
from ...core.reading import parse_json
from ..decode import EXTENSIONS
from .table import DEFAULTS, PARTS, ImageRecord, ImageTable, TableOptions

# In the folder of the shards: names of classes 0, 1, ..., one per line.
CLASS_LISTS = ("classes.txt", "classnames.txt")
FIELDS = ("label", "domain", "split", "caption", "captions")  # of a .json member


def is_shards(name: str) -> bool:
    """Return whether --data names shards: a tar file, a pattern of tar files, or a folder with tar files only."""
    path = Path(name)
    if not path.is_dir():
        return name.endswith(".tar")
    return any(path.glob("*.tar")) and not any(entry.is_dir() for entry in path.iterdir())


def read_shards(name: str, options: TableOptions = DEFAULTS) -> ImageTable:
    """Index shards as labelled images.

    The members with the same stem form one record: an image, a `.cls` (number or class name) or a `.json` (label or
    cls, optionally domain, split, caption), and optionally a `.txt` (caption). Shards named train-..., val-... and
    test-... form the parts of the data.

    Args:
        name: "shards/train-{0000..0009}.tar", "shards/*.tar" or a folder.
        options: see `TableOptions`.

    Raises:
        UserError: no such shards, compressed or remote shards, or an image without a label.
    """
    paths = expand_shards(name)
    records: list[ImageRecord] = []
    places: list[tuple[int, int, int]] = []
    for number, path in enumerate(paths):
        for key, (offset, size), fields in read_index(path):
            if "label" not in fields:
                raise UserError(f"--data: {path}: {key} has no .cls file and no label in a .json file")
            part = PARTS.get(str(fields.get("split", "")).lower(), part_of_shard(path))
            label, domain = str(fields["label"]), str(fields.get("domain", ""))
            caption = str(fields.get("caption", ""))
            records.append(ImageRecord(f"{path.name}/{key}", label, domain, part, caption, size))
            places.append((number, offset, size))
    if len({record.part for record in records}) == 1:
        records = [record._replace(part="") for record in records]
    labels = sorted({record.label for record in records})
    if all(label.isdecimal() for label in labels):
        labels.sort(key=int)
        names = class_list(paths[0].parent) | dict(options.class_names or {})
        options = replace(options, class_names=names or None)
    files = ShardFiles(tuple(paths), tuple(places))
    return ImageTable(paths[0].parent.resolve().name, records, files, options, labels=labels)


@dataclass(frozen=True)
class ShardFiles:
    """Row -> encoded image.

    Attributes:
        paths: the shards.
        places: (shard, offset, bytes) of each row.
    """

    paths: Sequence[Path]
    places: Sequence[tuple[int, int, int]]

    def __call__(self, row: int) -> bytes:
        shard, offset, size = self.places[row]
        with self.paths[shard].open("rb") as file:
            file.seek(offset)
            return file.read(size)


def read_index(path: Path) -> Iterator[tuple[str, tuple[int, int], dict[str, Any]]]:
    """Yield (key, (offset, bytes) of the image, other fields) of each record of a shard that has an image.

    Raises:
        UserError: the file is not an uncompressed tar file.
    """
    images: dict[str, tuple[int, int]] = {}
    fields: dict[str, dict[str, Any]] = {}
    try:
        with tarfile.open(path, "r:") as shard:
            for member in shard:
                folder, _, base = member.name.rpartition("/")
                stem, _, suffix = base.partition(".")
                if not member.isfile() or not stem:
                    continue
                key = f"{folder}/{stem}".removeprefix("./").lstrip("/")
                kind = suffix.lower().rpartition(".")[2]
                if f".{kind}" in EXTENSIONS:
                    images[key] = (member.offset_data, member.size)
                elif kind in ("cls", "txt", "json"):
                    stream = shard.extractfile(member)
                    text = stream.read().decode("utf-8").strip() if stream else ""
                    fields.setdefault(key, {}).update(parse_fields(kind, text))
    except (OSError, tarfile.TarError, ValueError) as error:
        raise UserError(
            f"--data: {path} is not a plain tar file ({error}); shards must be local and uncompressed"
        ) from None
    for key, place in images.items():
        yield key, place, fields.get(key, {})


def part_of_shard(path: Path) -> str:
    """Return the part that the name of a shard starts with (train-000.tar), or ""."""
    return PARTS.get(re.split(r"[-_.]", path.name.lower())[0], "")


def parse_fields(kind: str, text: str) -> dict[str, Any]:
    """Return the fields that a .cls, .txt or .json member of a shard holds."""
    if kind == "cls":
        return {"label": text}
    if kind == "txt":
        return {"caption": text}
    content = parse_json(text, "a .json member")
    if not isinstance(content, dict):
        raise ValueError("a .json member is not an object")
    found = {field: content[field] for field in FIELDS if field in content}
    return ({"label": content["cls"]} if "cls" in content else {}) | found


def expand_shards(name: str) -> list[Path]:
    """Return the shards that a folder or pattern names, in order.

    Raises:
        UserError: there are none, one is missing, or they are remote.
    """
    if re.match(r"[a-z0-9]+://|pipe:", name):
        raise UserError(f"--data {name}: shards must be local; download them first")
    if Path(name).is_dir():
        return sorted(Path(name).glob("*.tar"))
    braces = re.search(r"\{(\d+)\.\.(\d+)\}", name)
    if braces is not None:
        first, last = braces.groups()
        numbers = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
        return [
            path
            for number in numbers
            for path in expand_shards(name[: braces.start()] + number + name[braces.end() :])
        ]
    found = [Path(path) for path in sorted(glob.glob(name))]
    if not found:
        raise UserError(f"--data: no shard {name}")
    return found


def class_list(folder: Path) -> dict[str, str]:
    """Return class number -> name from the list next to the shards, or {}."""
    path = next((folder / name for name in CLASS_LISTS if (folder / name).is_file()), None)
    if path is None:
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    return {str(number): line.strip() for number, line in enumerate(lines) if line.strip()}
