"""`CaptionTable`: image files with captions as a data source, built by the readers of `files` and `published`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from torch import Tensor

from ...core.errors import UserError
from ...core.types import CaptionSource, CaptionTest, Preprocess, Stage
from ..decode import ImageFile, printable
from ..sources.table import DEFAULTS, ImageRecord, ImageTable, TableOptions
from .buffer import CaptionBuffer
from .sentences import all_captions, long_and_short

HELD_OUT = 0.1  # share of the images in each part that the data do not define
LARGEST_PART = {"test": 5000, "validation": 1000}  # images in such a part
UNLABELLED = "image"  # the only class of data without classes


class CaptionRecord(NamedTuple):
    """An image with some or all of its captions, as a file lists it.

    Attributes:
        key: name of the image.
        captions: at least one.
        where: file and line, for messages.
        part, label, domain, size: as in `ImageRecord`.
    """

    key: str
    captions: Sequence[str]
    where: str
    part: str = ""
    label: str = UNLABELLED
    domain: str = ""
    size: int = 0


class CaptionTable(ImageTable, CaptionSource):
    """A `CaptionSource` of image files.

    Training views are the evaluation views: as CLIP preprocesses images, the shorter side is resized (bicubic) and the
    centre cropped, without augmentation (SmartCLIP).

    Args:
        name: name of the data set.
        records: contents of a file, read once. Records with the same key are one row with several captions.
        files: keys of all rows -> (row -> its image file).
        options: see `TableOptions`.
        test: None to test whole captions ("long") and their first sentences ("short"), see `long_and_short`; or the
            name of the only test, of all captions unchanged, as published protocols have it.

    Raises:
        UserError: no images, an image without captions, an empty caption, or an image in two parts.
    """

    interpolation = "bicubic"
    augments = False
    parts: Mapping[str, np.ndarray]

    def __init__(
        self,
        name: str,
        records: Iterable[CaptionRecord],
        files: Callable[[tuple[str, ...]], Callable[[int], ImageFile]],
        options: TableOptions = DEFAULTS,
        *,
        test: Literal["long", "short"] | None = None,
    ) -> None:
        images, self.texts = group_captions(records)
        file = files(tuple(image.key for image in images))
        super().__init__(name, images, file, options, identity=self.texts.digest())
        self.parts = complete_parts(self.parts, self.keys)
        self.test = test

    def images(
        self, rows: np.ndarray, stage: Stage, draws: np.ndarray, seed: int, preprocess: Preprocess
    ) -> Tensor:
        """Return one view per row, the same in all stages; see `Source.images`."""
        return super().images(rows, "test", draws, seed, preprocess)

    def caption_tests(self, part: Literal["validation", "test"]) -> tuple[CaptionTest, ...]:
        """Return the retrieval tests of a part; none if it has no images."""
        rows = self.parts[part]
        if not len(rows):
            return ()
        if self.test is None:
            return long_and_short(self.texts, rows)
        return (CaptionTest(self.test, rows, *all_captions(self.texts, rows)),)


def group_captions(records: Iterable[CaptionRecord]) -> tuple[list[ImageRecord], CaptionBuffer]:
    """Return one record per image, in order of first appearance, and the captions of each.

    Raises:
        UserError: see `CaptionTable`.
    """
    images: list[ImageRecord] = []
    row_of: dict[str, int] = {}
    texts = CaptionBuffer()
    for record in records:
        image = ImageRecord(record.key, record.label, record.domain, record.part, "", record.size)
        row = row_of.setdefault(image.key, len(images))
        if row == len(images):
            images.append(image)
        elif images[row] != image:
            raise conflict(record.where, images[row], image)
        if not record.captions:
            raise UserError(f"--data: {record.where}: {printable(image.key)} has no caption")
        for caption in record.captions:
            text = " ".join(filter(None, map(str.strip, caption.splitlines())))
            if not text:
                raise UserError(f"--data: {record.where}: empty caption; write one or remove the image")
            try:
                texts.add(row, text)
            except UnicodeEncodeError:
                raise UserError(f"--data: {record.where}: the caption is not UTF-8") from None
    if len({bool(image.part) for image in images}) > 1:
        without = next(image for image in images if not image.part)
        raise UserError(f"--data: {printable(without.key)} has no split, but other images have one")
    return images, texts


def conflict(where: str, first: ImageRecord, second: ImageRecord) -> UserError:
    """Return the error for an image that is listed twice with different facts."""
    facts = zip(("class", "domain", "split"), first[1:4], second[1:4], strict=True)
    fact, before, now = next((fact for fact in facts if fact[1] != fact[2]), ("size", "", ""))
    return UserError(
        f'--data: {where}: {printable(second.key)} has {fact} "{now}", but "{before}" on an earlier line'
    )


def complete_parts(parts: Mapping[str, np.ndarray] | None, keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Add the parts that the data do not define, drawn by the hash of the images' keys.

    The draw depends on neither order nor seed. Without any part, the last tenth of the images by SHA-256 of their keys
    (at most 5,000) is the test part, and the tenth before it (at most 1,000) the validation part. If only validation is
    empty, the last tenth of the training images (at most 1,000) becomes it. Without training images nothing is added.

    Args:
        parts: part -> rows, or None if the data have no split.
        keys: of all rows.
    """
    train = np.arange(len(keys)) if parts is None else parts["train"]
    hashes = [hashlib.sha256(keys[row].encode("utf-8", "surrogateescape")).digest() for row in train.tolist()]
    rest = train[np.array(sorted(range(len(train)), key=hashes.__getitem__), np.int64)]  # by rising hash
    completed = {"train": rest, **(parts or {})}
    for part in ("test", "validation"):
        if len(train) and not len(completed.get(part, ())) and (parts is None or part == "validation"):
            count = min(LARGEST_PART[part], max(1, round(HELD_OUT * len(train))))
            completed[part], rest = np.sort(rest[len(rest) - count :]), rest[: max(0, len(rest) - count)]
    completed["train"] = np.sort(rest)
    return completed
