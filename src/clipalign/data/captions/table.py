"""One table of images with captions behind every input of them; `caption_files` and `caption_sets` read these.

Images are read when they are shown. Captions are packed once, as bytes, while their file is read line by line, so
that 1.2 million long ones take little more memory than their characters.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, overload

import numpy as np
from torch import Tensor

from ...core.errors import UserError
from ...core.types import CaptionSource, CaptionTest, Preprocess, Stage
from ..decode import File, printable
from ..sources.table import ImageRecord, ImageTable
from .sentences import every_caption, long_and_short

SHARE = 0.1  # of the images, for each part that the data do not give
MOST = {"test": 5000, "validation": 1000}  # images of a part that is cut by SHARE
UNLABELLED = "image"  # the one class of data without classes


class CaptionRecord(NamedTuple):
    """An image with one or more of its captions, as a file gives them.

    Attributes:
        key: name of the image. where: file and line, for errors. label, domain, part, size: as in `ImageRecord`.
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


class CaptionTable(ImageTable, CaptionSource):
    """A `CaptionSource` over rows of image files.

    Images are shown as CLIP's own preprocessing has them, in training too: shorter side resized (bicubic), centre
    cropped, no augmentation (SmartCLIP).

    Args:
        records: what a file holds. Records of one image are one row, with all its captions.
        file: row number -> its file; made from the keys of the rows.
        tests: None for whole captions ("long") and their first sentences ("short"), see `long_and_short`; the name
            of the one test with every caption as it stands, where a published protocol has that.
        settings: as for `ImageTable`.

    Raises:
        UserError: no rows, an image without a caption, an empty one, an image in two parts.
    """

    interpolation = "bicubic"
    parts: Mapping[str, np.ndarray]

    def __init__(
        self,
        name: str,
        records: Iterable[CaptionRecord],
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
        rows = self.parts[part]
        if not len(rows):
            return ()
        if self.tests is None:
            return long_and_short(self.texts, rows)
        return (CaptionTest(self.tests, rows, *every_caption(self.texts, rows)),)


def collect(records: Iterable[CaptionRecord]) -> tuple[list[ImageRecord], Texts]:
    """Rows by first appearance, and their captions.

    Raises:
        UserError: see `CaptionTable`.
    """
    rows: list[ImageRecord] = []
    at: dict[str, int] = {}
    texts = Texts()
    for record in records:
        row = ImageRecord(record.key, record.label, record.domain, record.part, "", record.size)
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
