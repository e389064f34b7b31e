"""Leaf types that every package may import: batches, data sources, and the episodes that protocols make of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Stage = Literal["train", "validation", "test"]
Interpolation = Literal["bicubic", "bilinear"]
CaptionUse = Literal["long", "prefix", "sentence"]


@dataclass(frozen=True)
class Batch:
    """Images with their labels, ready for a model.

    Attributes:
        images: [B, 3, H, W] float32, normalised with the backbone's mean and standard deviation.
        labels: [B] int64, positions in the episode's training label space.
        domains: [B] int64, indices into the source's `domain_names`.
        rows: [B] int64, rows of the source, so that a bad batch can be traced to its files.
        captions: one text per image, or None where the data have none.
    """

    images: Tensor
    labels: Tensor
    domains: Tensor
    rows: Tensor
    captions: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on `device`."""
        return replace(
            self,
            images=self.images.to(device, non_blocking=True),
            labels=self.labels.to(device),
            domains=self.domains.to(device),
            rows=self.rows.to(device),
        )


@dataclass(frozen=True)
class Preprocess:
    """What a backbone wants to see.

    Attributes:
        size: height and width in pixels.
        mean, std: per channel, of values in [0, 1].
        interpolation: "bicubic" (CLIP's own) or "bilinear" (as CLIPood and AlignCLIP released).
    """

    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Interpolation = "bicubic"

    def normalise(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] -> the same shape, standardised per channel."""
        mean = images.new_tensor(self.mean).view(1, 3, 1, 1)
        std = images.new_tensor(self.std).view(1, 3, 1, 1)
        return (images - mean) / std

    def fit(self, images: Tensor) -> Tensor:
        """Pictures [B, 3, h, w] in [0, 1] -> [B, 3, H, W], resized where they have another size, standardised."""
        if tuple(images.shape[-2:]) != self.size:
            images = F.interpolate(
                images, size=self.size, mode=self.interpolation, align_corners=False, antialias=True
            ).clamp(0, 1)
        return self.normalise(images)


@runtime_checkable
class Source(Protocol):
    """A data set as one table of rows.

    A row is the unit of every split (a drawing, a photograph). What a model sees of a row is a view: in
    training a fresh one for each draw, at evaluation one of a fixed number, so that every model sees the
    same pixels.
    """

    name: str
    class_names: tuple[str, ...]
    domain_names: tuple[str, ...]
    templates: tuple[str, ...]
    labels: np.ndarray
    domains: np.ndarray

    def views(self, stage: Stage) -> int:
        """Number of fixed views per row at evaluation (1 for photographs)."""
        ...

    def images(
        self, rows: np.ndarray, stage: Stage, draws: np.ndarray, seed: int, preprocess: Preprocess
    ) -> Tensor:
        """Views of rows as a tensor [len(rows), 3, H, W], normalised.

        Args:
            rows: row numbers.
            stage: "train" augments; the others give the fixed view number `draws[i]` of row `rows[i]`.
            draws: in training any number that identifies the draw (the position in the whole run), so that
                a view depends on (seed, draw, row) alone, never on a rank or a worker.
            seed: seed of training views; ignored elsewhere.
            preprocess: size and statistics.
        """
        ...

    def fingerprint(self) -> str:
        """Hash of what the table holds."""
        ...


@dataclass(frozen=True)
class CaptionTest:
    """Images and texts that are to find each other.

    Attributes:
        name: the `test` of a result row: "long", "short", or one of them with a style ("long-twemoji").
        rows: [n] int64, rows of the source, one image each, all different.
        texts: T captions.
        owner: [T] int64, position in `rows` of the image that each caption was written for.
        relevant: [T, n] sparse bool, every image that a text is true of (its owner included); None where the
            data do not know.
    """

    __test__ = False  # not a test case of pytest

    name: str
    rows: np.ndarray
    texts: tuple[str, ...]
    owner: np.ndarray
    relevant: csr_array | None = None


@runtime_checkable
class CaptionSource(Source, Protocol):
    """A `Source` whose rows carry captions. Labels are all 0 where the data have no classes.

    Attributes:
        texts: row -> its captions, the one to train on first; each holds one or more sentences.
        parts: "train", "validation", "test" -> rows.
    """

    texts: Sequence[tuple[str, ...]]
    parts: Mapping[str, np.ndarray] | None

    def caption_tests(self, part: Literal["validation", "test"]) -> tuple[CaptionTest, ...]:
        """What retrieval is measured on; `long_and_short` makes the usual two from the captions alone."""
        ...


@dataclass(frozen=True)
class TestSet:
    """Rows to be scored, and the class names among which the model has to choose.

    Attributes:
        name: "all", "base", "new", or a domain; the `test` of a result row.
        rows: [n] int64, ascending.
        classes: the label space: positions in the source's `class_names`, in the order of the logits.
        stage: which fixed views are shown.
    """

    __test__ = False  # not a test case, though its name begins like one

    name: str
    rows: np.ndarray
    classes: tuple[int, ...]
    stage: Literal["test"] = "test"


@dataclass(frozen=True)
class Episode:
    """One training problem with its tests.

    Attributes:
        protocol: name of the rule that made it.
        target: domain that is tested and, but for base-to-new, not trained on; None for every domain.
        source: the data set; all rows below are its rows.
        train_classes: the label space of training, as positions in the source's `class_names`.
        train_rows, validation_rows: [n] int64, ascending. Validation holds source domains and training
            classes only, so that nothing of the tests can steer a choice.
        tests: what is scored at the end.
        split_hash: SHA-256 of the rows, the label spaces and the rule. Numbers with different hashes are not
            comparable.
        rule: where the split came from, in words.
        caption_tests, caption_validation: what retrieval is measured on, at the end and in between; none but in
            the protocol "retrieval", which has no `tests` and no `train_classes`.
        skipped: rows that the rule would have used, had their files been images -> why they are not.
    """

    protocol: str
    target: str | None
    source: Source
    train_classes: tuple[int, ...]
    train_rows: np.ndarray
    validation_rows: np.ndarray
    tests: tuple[TestSet, ...]
    split_hash: str
    rule: str = ""
    caption_tests: tuple[CaptionTest, ...] = ()
    caption_validation: tuple[CaptionTest, ...] = ()
    skipped: Mapping[int, str] = field(default_factory=dict)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the training label space, in the order of its logits."""
        return tuple(self.source.class_names[c] for c in self.train_classes)

    @property
    def train_domains(self) -> tuple[int, ...]:
        """Domains that have training rows, ascending."""
        return tuple(int(d) for d in np.unique(self.source.domains[self.train_rows]))
