"""A data set of labels and domains alone, for tests that only cut it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from clipalign.core.types import Preprocess, Stage
from clipalign.data.splits import FixedSplits


class TableSource:
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
        """The same number of images of each class in each domain, domain by domain, class by class."""
        labels = np.tile(np.repeat(np.arange(classes), images), domains)
        return cls(labels, np.repeat(np.arange(domains), classes * images), classes, domains)

    def views(self, stage: Stage) -> int:
        return 1

    def images(
        self, rows: np.ndarray, stage: Stage, draws: np.ndarray, seed: int, preprocess: Preprocess
    ) -> Tensor:
        return torch.zeros(len(rows), 3, *preprocess.size)

    def fingerprint(self) -> str:
        return hashlib.sha256(self.labels.tobytes() + self.domains.tobytes()).hexdigest()
