"""Images with captions from the user's own files: a table, a JSON list, ShareGPT4V's JSON, tar shards.

Images are read when they are shown. Captions are packed once, as bytes, while their file is read line by line, so
that 1.2 million long ones take little more memory than their characters.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

import numpy as np
from torch import Tensor

from ..errors import UserError
from .base import Preprocess, Stage
from .captions import CaptionTest, long_and_short
from .decode import File, printable, said
from .layouts import file_size
from .shards import ShardFiles, expand, part_of_shard, samples
from .table import PARTS, FilesUnder, Row, Table
from .tabular import csv_lines, find_columns, parquet_columns, read_parquet

SHARE_TEST = 1000  # the first entries of ShareGPT4V's file are the test set "ShareGPT4V-1k"
SHARE = 0.1  # of the images, for each part that the data do not give
MOST = {"test": 5000, "validation": 1000}  # images of a part that is cut by SHARE
CHUNK = 1 << 20  # characters of JSON read at a time
LARGEST_ENTRY = 1 << 26  # characters after which an entry is taken for damaged
BETWEEN = re.compile(r"[\s,]*")  # entries of a list
UNLABELLED = "image"  # the one class of data without classes


class Captioned(NamedTuple):
    """An image with one or more of its captions, as a file gives them.

    Attributes:
        key: name of the image. where: file and line, for errors. label, domain, part, size: as in `table.Row`.
    """

    key: str
    captions: Sequence[str]
    where: str
    part: str = ""
    label: str = UNLABELLED
    domain: str = ""
    size: int = 0


class Texts(Sequence[tuple[str, ...]]):
    """Row -> its captions, all in one buffer."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._ends = array("q", [0])
        self._rows = array("q")
        self._order: np.ndarray | None = None
        self._starts = np.zeros(1, np.int64)

    def add(self, row: int, text: str) -> None:
        """One more caption of a row.

        Raises:
            UnicodeEncodeError: not UTF-8 in its file.
        """
        self._bytes += text.encode("utf-8")
        self._ends.append(len(self._bytes))
        self._rows.append(row)
        self._order = None

    def _sorted(self) -> np.ndarray:
        """Captions by row; those of a row stay in the order of the file."""
        if self._order is None:
            rows = np.frombuffer(self._rows, np.int64) if self._rows else np.zeros(0, np.int64)
            self._order = np.argsort(rows, kind="stable")
            self._starts = np.concatenate([[0], np.cumsum(np.bincount(rows))])
        return self._order

    def __len__(self) -> int:
        self._sorted()
        return len(self._starts) - 1

    @overload
    def __getitem__(self, row: int) -> tuple[str, ...]: ...

    @overload
    def __getitem__(self, row: slice) -> list[tuple[str, ...]]: ...

    def __getitem__(self, row: int | slice) -> tuple[str, ...] | list[tuple[str, ...]]:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        row %= len(self)
        mine = self._sorted()[self._starts[row] : self._starts[row + 1]]
        return tuple(self._bytes[self._ends[i] : self._ends[i + 1]].decode("utf-8") for i in mine.tolist())

    def digest(self) -> str:
        """SHA-256 of all captions and of which row each belongs to."""
        found = hashlib.sha256(self._bytes)
        for numbers in (self._ends, self._rows):
            found.update(numbers.tobytes())
        return found.hexdigest()


class CaptionTable(Table):
    """A `CaptionSource` over rows of image files.

    Images are shown as CLIP's own preprocessing has them, in training too: shorter side resized (bicubic), centre
    cropped, no augmentation (SmartCLIP).

    Args:
        records: what a file holds. Records of one image are one row, with all its captions.
        file: row number -> its file; made from the keys of the rows.
        tests: None for whole captions ("long") and their first sentences ("short"), see `long_and_short`; the name
            of the one test with every caption as it stands, where a published protocol has that.
        settings: as for `Table`.

    Raises:
        UserError: no rows, an image without a caption, an empty one, an image in two parts.
    """

    interpolation = "bicubic"

    def __init__(
        self,
        name: str,
        records: Iterable[Captioned],
        file: Callable[[tuple[str, ...]], Callable[[int], File]],
        *,
        tests: Literal["long", "short"] | None = None,
        **settings: Any,
    ) -> None:
        rows, self.texts = collect(records)
        keys = tuple(row.key for row in rows)
        super().__init__(name, rows, file(keys), identity=self.texts.digest(), **settings)
        self.parts = complete(self.parts, self.keys)
        self.tests = tests

    def images(
        self, rows: np.ndarray, stage: Stage, draws: np.ndarray, seed: int, preprocess: Preprocess
    ) -> Tensor:
        """See `Source.images`; training views are those of the test."""
        return super().images(rows, "test", draws, seed, preprocess)

    def caption_tests(self, part: Literal["validation", "test"]) -> tuple[CaptionTest, ...]:
        """See `CaptionSource`; none where the part has no images."""
        rows = (self.parts or {})[part]
        if not len(rows):
            return ()
        if self.tests is None:
            return long_and_short(self.texts, rows)
        captions = [(i, text) for i, row in enumerate(rows.tolist()) for text in self.texts[row]]
        owner = np.array([i for i, _ in captions], np.int64)
        return (CaptionTest(self.tests, rows, tuple(text for _, text in captions), owner),)


def collect(records: Iterable[Captioned]) -> tuple[list[Row], Texts]:
    """Rows by first appearance, and their captions.

    Raises:
        UserError: see `CaptionTable`.
    """
    rows: list[Row] = []
    at: dict[str, int] = {}
    texts = Texts()
    for record in records:
        row = Row(record.key, record.label, record.domain, record.part, "", record.size)
        number = at.setdefault(row.key, len(rows))
        if number == len(rows):
            rows.append(row)
        elif rows[number] != row:
            facts = zip(("class", "domain", "split"), rows[number][1:4], row[1:4], strict=True)
            what, before, now = next((fact for fact in facts if fact[1] != fact[2]), ("size", "", ""))
            raise UserError(
                f'--data: {record.where}: {printable(row.key)} has {what} "{now}", but "{before}" above; '
                "an image has one"
            )
        if not record.captions:
            raise UserError(f"--data: {record.where}: {printable(row.key)} has no caption")
        for caption in record.captions:
            text = " ".join(filter(None, map(str.strip, caption.splitlines())))
            if not text:
                raise UserError(f"--data: {record.where}: the caption is empty; write one or drop the image")
            try:
                texts.add(number, text)
            except UnicodeEncodeError:
                raise UserError(f"--data: {record.where}: the caption is not UTF-8") from None
    if len({bool(row.part) for row in rows}) > 1:
        without = next(row for row in rows if not row.part)
        raise UserError(f"--data: {printable(without.key)} has no split, though others have one")
    return rows, texts


def complete(parts: Mapping[str, np.ndarray] | None, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Parts that the data do not give, cut by the hash of the images' names, so that neither order nor seed matters.

    Without any part: the last tenth of the images is for the test (5,000 at most), the tenth before for validation
    (1,000 at most), by rising SHA-256 of their names. Without validation images: the last tenth of the training
    images in that order (1,000 at most). Parts without training images stay as they are.
    """
    train = np.arange(len(keys)) if parts is None else parts["train"]
    hashes = [hashlib.sha256(keys[row].encode("utf-8", "surrogateescape")).digest() for row in train.tolist()]
    rest = train[np.array(sorted(range(len(train)), key=hashes.__getitem__), np.int64)]
    found = {"train": rest, **(parts or {})}
    for part in ("test", "validation"):
        if len(train) and not len(found.get(part, ())) and (parts is None or part == "validation"):
            count = min(MOST[part], max(1, round(SHARE * len(train))))
            found[part], rest = np.sort(rest[len(rest) - count :]), rest[: max(0, len(rest) - count)]
    found["train"] = np.sort(rest)
    return found


def read_caption_table(
    path: Path, *, root: Path | None = None, columns: Mapping[str, str] | None = None, **settings: Any
) -> CaptionTable:
    """A CSV, TSV or Parquet file of path, caption[, label][, domain][, split]; see `tabular.read_table`.

    Lines with one path are captions of one image, the first being the one to train on.

    Raises:
        UserError: unreadable, a column missing, a line without path or caption, an unknown split.
    """
    base = root or path.parent

    def records() -> Iterator[Captioned]:
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
            yield Captioned(key, (cells["caption"],), where, part, label, cells.get("domain", ""), size)

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


def json_records(path: Path, base: Path) -> Iterator[Captioned]:
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
        yield Captioned(key, captions, where, part, label, domain, file_size(base / key))


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

    def records() -> Iterator[Captioned]:
        for number, path in enumerate(paths):
            for key, place, facts in samples(path):
                captions = facts.get("captions", facts.get("caption", ()))
                part = str(facts.get("split", parts.get(path, "")))
                places.append((number, *place))
                yield Captioned(
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


def part_named(name: str, where: str) -> str:
    """The part that a split's name stands for."""
    if name.lower() not in PARTS:
        raise UserError(f'--data: {where}: split is "{name}", not one of train, validation, test')
    return PARTS[name.lower()]
