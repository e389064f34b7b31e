"""A data source of labels and domains without images, for tests of splits."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from clipalign.core.types import FixedSplits, Preprocess, Source, Stage


class TableSource(Source):
    """A `Source` whose images are all zeros.

    Args:
        labels, domains: of each row.
        class_count, domain_count: how many there are, which the rows need not cover.
        splits: fixed splits, if the data set has them.
    """

    name = "table"
    templates = ("a photo of a {}.",)

    def __init__(
        self,
        labels: Sequence[int],
        domains: Sequence[int],
        class_count: int,
        domain_count: int,
        splits: FixedSplits | None = None,
    ) -> None:
        self.labels = np.asarray(labels, dtype=np.int64)
        self.domains = np.asarray(domains, dtype=np.int64)
        self.class_names = tuple(f"class {i}" for i in range(class_count))
        self.domain_names = tuple(f"domain-{i}" for i in range(domain_count))
        self.splits = splits

    @classmethod
    def grid(cls, classes: int, domains: int, images: int) -> TableSource:
        """Return a source with `images` rows of each class in each domain, ordered by domain, then class."""
        labels = np.tile(np.repeat(np.arange(classes), images), domains)
        return cls(labels, np.repeat(np.arange(domains), classes * images), classes, domains)

    def images(
        self, rows: np.ndarray, stage: Stage, draws: np.ndarray, seed: int, preprocess: Preprocess
    ) -> Tensor:
        return torch.zeros(len(rows), 3, *preprocess.size)

    def fingerprint(self) -> str:
        return hashlib.sha256(self.labels.tobytes() + self.domains.tobytes()).hexdigest()
