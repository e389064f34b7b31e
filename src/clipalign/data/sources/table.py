"""`ImageTable`: labelled image files as a data source. Folders, tables, shards and published sets all build one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ...backbone.text.features import DEFAULT_TEMPLATES
from ...core.errors import UserError
from ...core.types import Interpolation, Preprocess, Source, Stage
from ..decode import (
    ImageFile,
    decode_error,
    evaluation_view,
    printable,
    read_image,
    stack_views,
    training_view,
)
from .class_names import name_classes

# Name of a split in folders and columns -> part.
PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


class ImageRecord(NamedTuple):
    """One image, as a folder, table or archive lists it.

    Attributes:
        key: unique name (a path relative to the root), used in split files and error messages.
        label: the class as the data write it; see `name_classes`.
        domain: "" if the data have no domains.
        part: "train", "validation", "test", or "" if the data have no split.
        caption: "" for none.
        size: bytes; part of the fingerprint.
        group: see `Source.groups`; "" if the data have no groups.
    """

    key: str
    label: str
    domain: str = ""
    part: str = ""
    caption: str = ""
    size: int = 0
    group: str = ""


@dataclass(frozen=True)
class TableOptions:
    """Options that all sources of image files share.

    Attributes:
        class_names: label -> class name in prompts; other labels are used as they are.
        max_broken: largest share of the files of an episode that may fail to decode; these are skipped.
        check_names: reject class names that a model cannot tell apart. `clipalign data check` lists them instead.
    """

    class_names: Mapping[str, str] | None = None
    max_broken: float = 0.01
    check_names: bool = True


DEFAULTS = TableOptions()


@dataclass(frozen=True)
class FilesBelow:
    """Row -> path of its image: keys relative to a folder."""

    root: Path
    keys: tuple[str, ...]

    def __call__(self, row: int) -> Path:
        return self.root / self.keys[row]


class ImageTable(Source):
    """A `Source` of labelled image files.

    Training views are random crops, mirrored with probability 0.5 (see `data.augment`). At evaluation the shorter side
    is resized and the centre cropped. The default crops and the bilinear interpolation follow the code released for
    CLIPood and AlignCLIP.

    Args:
        name: name of the data set.
        records: one per row, in the order that splits count rows in.
        file: row -> its image file.
        options: class names and tolerance for broken files.
        labels: all classes in order, including those without images. Default: the labels of the records, sorted.
        domains: the same for domains.
        templates: prompt templates of the data set.
        identity: further data that enter the fingerprint.

    Raises:
        UserError: no records, or invalid class names (see `name_classes`).
    """

    interpolation: Interpolation | None = "bilinear"
    augments = True

    def __init__(
        self,
        name: str,
        records: Sequence[ImageRecord],
        file: Callable[[int], ImageFile],
        options: TableOptions = DEFAULTS,
        *,
        labels: Sequence[str] | None = None,
        domains: Sequence[str] | None = None,
        templates: Sequence[str] = DEFAULT_TEMPLATES,
        identity: str = "",
    ) -> None:
        self.name, self.file, self.templates, self.identity = name, file, tuple(templates), identity
        self.max_broken = options.max_broken
        if not records:
            raise UserError(f"--data: no images in {printable(name)}")
        self.keys: tuple[str, ...] = tuple(record.key for record in records)
        self.sizes = tuple(record.size for record in records)
        written = [record.label for record in records]
        classes = sorted(set(written)) if labels is None else list(labels)
        self.labels = indices_of(written, classes)  # [N]
        self.class_names = name_classes(name, classes, options.class_names, options.check_names)
        domain_of = [record.domain or name for record in records]
        self.domain_names = tuple(sorted(set(domain_of)) if domains is None else domains)
        self.domains = indices_of(domain_of, self.domain_names)  # [N]
        part_of = np.array([record.part for record in records])
        if any(part_of):
            self.parts = {part: np.flatnonzero(part_of == part) for part in ("train", "validation", "test")}
        if any(record.group for record in records):
            self.groups = tuple(record.group for record in records)
        captions = tuple(record.caption for record in records)
        if any(captions):
            self.captions = captions
        self._errors: dict[int, str | None] = {}

    def images(
        self, rows: np.ndarray, stage: Stage, draws: np.ndarray, seed: int, preprocess: Preprocess
    ) -> Tensor:
        """Return one view per row; see `Source.images`.

        Raises:
            UserError: a file does not decode.
        """
        views = []
        for row, draw in zip(rows.tolist(), draws.tolist(), strict=True):
            image = read_image(self.file(row), self.keys[row])
            if stage == "train":
                views.append(training_view(image, np.random.default_rng([seed, draw, row]), preprocess))
            else:
                views.append(evaluation_view(image, preprocess))
        return stack_views(views, preprocess)

    def broken(self, rows: np.ndarray) -> dict[int, str]:
        """Return the rows whose files are not valid images, each with the reason; see `decode_error`.

        Raises:
            UserError: their share exceeds `max_broken`.
        """
        unchecked = [row for row in rows.tolist() if row not in self._errors]
        with ThreadPoolExecutor(8) as pool:  # most of the time is spent waiting for the disk
            errors = pool.map(lambda row: decode_error(self.file(row)), unchecked)
            self._errors |= dict(zip(unchecked, errors, strict=True))
        broken = {row: reason for row in rows.tolist() if (reason := self._errors[row]) is not None}
        if len(broken) > self.max_broken * len(rows):
            first = "; ".join(f"{printable(self.keys[row])} ({why})" for row, why in list(broken.items())[:3])
            raise UserError(
                f"--data {self.name}: {len(broken)} of {len(rows)} images do not decode, more than --max-broken "
                f"{self.max_broken:g} allows: {first}{' ...' if len(broken) > 3 else ''}; "
                "`clipalign data check` lists them all"
            )
        return broken

    def fingerprint(self) -> str:
        """Return the SHA-256 of every row's key, size, class, domain, part and caption."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        part_of = {int(row): part for part, rows in (self.parts or {}).items() for row in rows}
        digest = hashlib.sha256(self.identity.encode())
        for row, (key, size) in enumerate(zip(self.keys, self.sizes, strict=True)):
            facts = (
                key,
                str(size),
                self.class_names[self.labels[row]],
                self.domain_names[self.domains[row]],
                part_of.get(row, ""),
                self.captions[row] if self.captions else "",
            )
            digest.update("\0".join(facts).encode("utf-8", "surrogateescape") + b"\n")
        return digest.hexdigest()


def indices_of(values: Sequence[str], known: Sequence[str]) -> np.ndarray:
    """Return the index in `known` of each value: [n] int64."""
    index = {value: i for i, value in enumerate(known)}
    return np.fromiter((index[value] for value in values), dtype=np.int64, count=len(values))


def parse_part(text: str, where: str) -> str:
    """Return the part that a split's name means; `where` (file and line) is for the message.

    Raises:
        UserError: unknown name.
    """
    if text.lower() not in PARTS:
        raise UserError(f'--data: {where}: split is "{text}", not one of train, validation, test')
    return PARTS[text.lower()]
