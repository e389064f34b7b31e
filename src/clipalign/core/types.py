"""Types that every package shares: batches, data sources, and the episodes that protocols build from them.

A *row* is one item of a data source (a photograph, a drawing, a scene) and the unit of every split. A *view* is the
image that a model receives for a row: random in training, one of a fixed number at evaluation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Stage = Literal["train", "validation", "test"]
Interpolation = Literal["bicubic", "bilinear"]
Resize = Literal["shortest", "squash"]
CaptionUse = Literal["long", "prefix", "sentence"]
Augment = Literal["clip-crop", "coop", "tip-adapter", "domainbed", "none"]


@dataclass(frozen=True)
class Batch:
    """Images with their labels, ready for a model.

    Attributes:
        images: [B, 3, H, W] float32, normalised with the backbone's mean and standard deviation.
        labels: [B] int64, positions in the episode's training label space.
        domains: [B] int64, indices into the source's `domain_names`.
        rows: [B] int64, rows of the source.
        captions: one text per image, or None if the source has no captions.
    """

    images: Tensor
    labels: Tensor
    domains: Tensor
    rows: Tensor
    captions: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> Batch:
        """Return a copy with all tensors on `device`."""
        return replace(
            self,
            images=self.images.to(device, non_blocking=True),
            labels=self.labels.to(device),
            domains=self.domains.to(device),
            rows=self.rows.to(device),
        )


@dataclass(frozen=True)
class Preprocess:
    """How images become inputs of a backbone.

    Attributes:
        size: height and width in pixels.
        mean, std: per channel, for pixel values in [0, 1].
        interpolation: "bicubic" (as CLIP) or "bilinear" (as the code released for CLIPood and AlignCLIP).
        augment: random transformations of training views, by name; see `data.augment`.
        resize: of evaluation views: "shortest": the shorter side, then a crop of the centre; "squash": both sides, so
            that the aspect ratio changes (SigLIP, PE, CLIPA).
    """

    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Interpolation = "bicubic"
    augment: Augment = "clip-crop"
    resize: Resize = "shortest"

    def normalise(self, images: Tensor) -> Tensor:
        """Standardise images [B, 3, H, W] in [0, 1] per channel."""
        mean = images.new_tensor(self.mean).view(1, 3, 1, 1)  # [1, 3, 1, 1]
        std = images.new_tensor(self.std).view(1, 3, 1, 1)  # [1, 3, 1, 1]
        return (images - mean) / std

    def fit(self, images: Tensor) -> Tensor:
        """Resize images [B, 3, h, w] in [0, 1] to `size` if needed, then normalise: [B, 3, H, W]."""
        if tuple(images.shape[-2:]) != self.size:
            images = F.interpolate(
                images, size=self.size, mode=self.interpolation, align_corners=False, antialias=True
            ).clamp(0, 1)  # [B, 3, H, W]; bicubic interpolation overshoots
        return self.normalise(images)


@dataclass(frozen=True)
class FixedSplits:
    """Splits that ship with a data set, identical for every run and every machine.

    Classes and domains are positions in the source's `class_names` and `domain_names`; rows are ascending.

    Attributes:
        base, new: the two halves of the classes; in-the-wild and base-to-new train on `base` only.
        domain_train, domain_validation: domain -> rows, a partition of the rows of each domain.
        base_to_new_train, base_to_new_validation, base_to_new_test: a partition of all rows.
        rule: description of the split.
        seed: seed the split was drawn with.
    """

    base: frozenset[int]
    new: frozenset[int]
    domain_train: dict[int, np.ndarray]
    domain_validation: dict[int, np.ndarray]
    base_to_new_train: np.ndarray
    base_to_new_validation: np.ndarray
    base_to_new_test: np.ndarray
    rule: str
    seed: int


class Source(ABC):
    """A data set of N rows. Subclasses set the attributes without a default, and define `images` and `fingerprint`.

    Attributes:
        name: shown in reports and error messages.
        class_names: names used in prompts.
        domain_names: at least one.
        templates: prompt templates with {} for the class name.
        labels: [N] int64, indices into `class_names`; all 0 for captions without classes.
        domains: [N] int64, indices into `domain_names`.
        keys: a unique name per row (a relative path), used in split files and error messages; None: row numbers.
        parts: "train", "validation" and "test" -> rows, if the data set has a split.
        splits: the protocol-specific splits that ship with a data set, if any.
        groups: a name per row; rows of one group, such as images of one patient, are never in two parts of `holdout`.
        captions: one text per row for methods that train on classes and captions, if any.
        interpolation: how images are resized; None: the backbone's default.
        paper_templates: templates of the AlignCLIP paper, if they differ from `templates`.
        class_groups: groups of each class, from the narrowest to the widest, if the classes form a hierarchy.
        augments: whether training views depend on `Preprocess.augment`; False for data that render their own.
    """

    name: str
    class_names: tuple[str, ...]
    domain_names: tuple[str, ...]
    templates: tuple[str, ...]
    labels: np.ndarray
    domains: np.ndarray
    keys: Sequence[str] | None = None
    parts: Mapping[str, np.ndarray] | None = None
    splits: FixedSplits | None = None
    groups: Sequence[str] | None = None
    captions: Sequence[str] | None = None
    interpolation: Interpolation | None = None
    paper_templates: tuple[str, ...] | None = None
    class_groups: Sequence[tuple[str, ...]] | None = None
    augments: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    def views(self, stage: Stage) -> int:
        """Return the number of fixed views per row in `stage`."""
        return 1

    @abstractmethod
    def images(
        self, rows: np.ndarray, stage: Stage, draws: np.ndarray, seed: int, preprocess: Preprocess
    ) -> Tensor:
        """Return one view per row, [n, 3, H, W] float32, normalised.

        Args:
            rows: [n] int64, rows of this source.
            stage: "train" for random views, else for the fixed view number `draws[i]` of row `rows[i]`.
            draws: [n] int64. In training, the position of the view in the whole run: a random view depends on
                (seed, draw, row) only, never on the process or worker that makes it.
            seed: seed of random views; ignored at evaluation.
            preprocess: size, mean and standard deviation.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a hash of the contents; it enters the split hash that tells whether results are comparable."""

    def broken(self, rows: np.ndarray) -> dict[int, str]:
        """Return the rows that cannot be decoded, each with the reason.

        Raises:
            UserError: more of them than the source tolerates.
        """
        return {}


@dataclass(frozen=True)
class CaptionTest:
    """Images and captions to retrieve from each other.

    Attributes:
        name: the `test` of a result row: "long", "short", or one of these with a style ("long-twemoji").
        rows: [n] int64, distinct rows of the source, one image each.
        texts: T captions.
        owner: [T] int64, position in `rows` of the image that each caption was written for.
        relevant: [T, n] sparse bool, all images that each caption is true of; None if unknown.
    """

    __test__ = False  # tell pytest that this is no test case

    name: str
    rows: np.ndarray
    texts: tuple[str, ...]
    owner: np.ndarray
    relevant: csr_array | None = None


class CaptionSource(Source):
    """A `Source` with captions and a split into "train", "validation" and "test" (`parts`).

    Attributes:
        texts: row -> its captions, each of one or more sentences; a training step draws one of them.
    """

    texts: Sequence[tuple[str, ...]]
    parts: Mapping[str, np.ndarray]

    @abstractmethod
    def caption_tests(self, part: Literal["validation", "test"]) -> tuple[CaptionTest, ...]:
        """Return the retrieval tests of a part; see `data.captions.sentences.long_and_short` for the usual two."""

    def false_negatives(self, texts: Sequence[str], rows: np.ndarray) -> int | None:
        """Count the pairs of a batch that a contrastive loss takes for negatives although the text is true.

        Args:
            texts: [B], text i is shown with image i.
            rows: [B] int64.

        Returns:
            Number of pairs (text i, image j), i not j, or None if the source does not know.
        """
        return None


@dataclass(frozen=True)
class TestSet:
    """Rows to score, and the label space to score them in.

    Attributes:
        name: "all", "base", "new", or a domain; the `test` of a result row.
        rows: [n] int64, ascending.
        classes: label space: positions in the source's `class_names`, in the order of the logits.
        stage: which fixed views are scored.
    """

    __test__ = False  # tell pytest that this is no test case

    name: str
    rows: np.ndarray
    classes: tuple[int, ...]
    stage: Literal["test"] = "test"


@dataclass(frozen=True)
class Episode:
    """One training problem with its test sets, as a protocol cuts it from a source.

    Attributes:
        protocol: name of the protocol.
        target: the domain under test; None for all domains.
        source: the data set that all rows below refer to.
        train_classes: label space of training: positions in the source's `class_names`.
        train_rows: [n] int64, ascending.
        validation_rows: [m] int64, ascending; source domains and training classes only, so that model selection
            cannot use test information.
        tests: test sets scored at the end.
        split_hash: SHA-256 of rows, label spaces, rule and data. Results with different hashes are not comparable.
        rule: description of how the split was made.
        caption_tests, caption_validation: retrieval tests at the end and during training. Only the protocol
            "retrieval" has them; it has no `tests` and no `train_classes`.
        skipped: rows left out because their files do not decode -> reason.
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
        """Domains with training rows, ascending."""
        return tuple(int(d) for d in np.unique(self.source.domains[self.train_rows]))
