"""Tar shards in webdataset's form, read in place.

A shard is indexed once, by its headers; after that every image is one seek and one read. So shards are a table
like any other: they can be split, drawn from at random, resumed and evaluated, which a stream cannot.
"""

from __future__ import annotations

import glob
import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.errors import UserError
from ..decode import EXTENSIONS
from .table import PARTS, ImageRecord, ImageTable

CLASS_LISTS = ("classes.txt", "classnames.txt")  # beside the shards: names of classes 0, 1, ... a line each


def is_shards(name: str) -> bool:
    """Whether --data names shards: a tar file, a pattern of them, or a folder of nothing else to read."""
    path = Path(name)
    if not path.is_dir():
        return name.endswith(".tar")
    return any(path.glob("*.tar")) and not any(entry.is_dir() for entry in path.iterdir())


def read_shards(name: str, *, names: Mapping[str, str] | None = None, max_broken: float = 0.01) -> ImageTable:
    """Shards as a table.

    A sample is the files of one name: an image, `.cls` (a number or a class name) or `.json` (label or cls, and
    perhaps domain, split, caption), and perhaps `.txt` (a caption). Shards called train-..., val-... and test-...
    are the parts of the data.

    Args:
        name: "shards/train-{0000..0009}.tar", "shards/*.tar" or a folder.
        names, max_broken: see `ImageTable`.

    Raises:
        UserError: no such shards, compressed or remote ones, a sample without a label.
    """
    paths = expand(name)
    rows: list[ImageRecord] = []
    places: list[tuple[int, int, int]] = []
    for number, path in enumerate(paths):
        part = part_of_shard(path)
        for key, place, facts in samples(path):
            if "label" not in facts:
                raise UserError(f"--data: {path}: {key} has no .cls file and no label in a .json file")
            given = str(facts.get("split", "")).lower()
            rows.append(
                ImageRecord(
                    f"{path.name}/{key}",
                    str(facts["label"]),
                    str(facts.get("domain", "")),
                    PARTS.get(given, part),
                    str(facts.get("caption", "")),
                    place[1],
                )
            )
            places.append((number, *place))
    if len({row.part for row in rows}) == 1:
        rows = [row._replace(part="") for row in rows]
    labels = sorted({row.label for row in rows})
    if all(label.isdecimal() for label in labels):
        labels.sort(key=int)
        names = {**class_list(paths[0].parent), **(names or {})}
    short = paths[0].parent.resolve().name
    files = ShardFiles(tuple(paths), tuple(places))
    return ImageTable(short, rows, files, labels=labels, names=names or None, max_broken=max_broken)


@dataclass(frozen=True)
class ShardFiles:
    """Row number -> the bytes of its image.

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


def samples(path: Path) -> Iterator[tuple[str, tuple[int, int], dict[str, Any]]]:
    """(name, (offset, bytes) of the image, facts) of each sample in a shard; those without an image are skipped."""
    images: dict[str, tuple[int, int]] = {}
    facts: dict[str, dict[str, Any]] = {}
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
                    facts.setdefault(key, {}).update(read_facts(kind, text))
    except (OSError, tarfile.TarError, ValueError) as error:
        raise UserError(
            f"--data: {path} is not a plain tar file ({error}); shards must be on a disk and not compressed"
        ) from None
    for key, place in images.items():
        yield key, place, facts.get(key, {})


def part_of_shard(path: Path) -> str:
    """The part that the name of a shard says: train-000.tar; "" for none."""
    return PARTS.get(re.split(r"[-_.]", path.name.lower())[0], "")


def read_facts(kind: str, text: str) -> dict[str, Any]:
    """What a file beside an image says of it."""
    if kind == "cls":
        return {"label": text}
    if kind == "txt":
        return {"caption": text}
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError("a .json file that is no object")
    found = {
        field: content[field]
        for field in ("label", "domain", "split", "caption", "captions")
        if field in content
    }
    return ({"label": content["cls"]} if "cls" in content else {}) | found


def expand(name: str) -> list[Path]:
    """Shards that a pattern names, in order.

    Raises:
        UserError: none, one that is missing, or a remote one.
    """
    if re.match(r"[a-z0-9]+://|pipe:", name):
        raise UserError(f"--data {name}: shards are read from a disk; download them first")
    if Path(name).is_dir():
        return sorted(Path(name).glob("*.tar"))
    braces = re.search(r"\{(\d+)\.\.(\d+)\}", name)
    if braces is not None:
        first, last = braces.groups()
        numbers = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
        return [path for n in numbers for path in expand(name[: braces.start()] + n + name[braces.end() :])]
    found = [Path(path) for path in sorted(glob.glob(name))]
    if not found:
        raise UserError(f"--data: no shard {name}")
    return found


def class_list(folder: Path) -> dict[str, str]:
    """Number -> class name, from a list beside the shards; {} without one."""
    path = next((folder / name for name in CLASS_LISTS if (folder / name).is_file()), None)
    if path is None:
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    return {str(number): line.strip() for number, line in enumerate(lines) if line.strip()}
