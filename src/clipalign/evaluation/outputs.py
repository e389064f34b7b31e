"""Outputs of a model on a test set, from which all metrics are computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Classifier = Callable[[Tensor], Tensor]  # images [B, 3, H, W] -> logits [B, C]
ClassifierFactory = Callable[[tuple[str, ...]], Classifier]  # class names -> classifier


@dataclass(frozen=True)
class Outputs:
    """Logits of fixed views of images.

    Attributes:
        logits: [n, C] float32.
        labels: [n] int64, columns of the logits.
        rows: [n] int64, rows of the source; the views of a row are adjacent.
        domains: [n] int64, indices into `domain_names`.
        class_names: C names, the label space.
        domain_names: names of the domains of the source.
    """

    logits: np.ndarray
    labels: np.ndarray
    rows: np.ndarray
    domains: np.ndarray
    class_names: Sequence[str]
    domain_names: Sequence[str]

    @cached_property
    def ranked(self) -> np.ndarray:
        """[n, min(5, C)] int64, classes in order of falling logits; ties are in order of the classes."""
        return np.argsort(-self.logits, axis=1, kind="stable")[:, :5]  # [n, 5]

    @cached_property
    def probabilities(self) -> np.ndarray:
        """[n, min(5, C)] float32, softmax probabilities of `ranked`, among all C classes."""
        exponentials = np.exp(self.logits - self.logits.max(axis=1, keepdims=True))  # [n, C]
        shares = exponentials / exponentials.sum(axis=1, keepdims=True)  # [n, C]
        return np.take_along_axis(shares, self.ranked, axis=1)  # [n, 5]

    @cached_property
    def correct(self) -> np.ndarray:
        """[n] bool, whether the class with the highest logit is right."""
        return self.ranked[:, 0] == self.labels  # [n]

    def select(self, rows: np.ndarray) -> Outputs:
        """Return the outputs of some rows of the source."""
        keep = np.isin(self.rows, rows)  # [n]
        return replace(
            self,
            logits=self.logits[keep],
            labels=self.labels[keep],
            rows=self.rows[keep],
            domains=self.domains[keep],
        )


@dataclass(frozen=True)
class RetrievalOutputs:
    """Features of the images and captions of a test set.

    Attributes:
        images: [n, d] float32.
        texts: [T, d] float32, L2-normalised.
        owner: [T] int64, the image that each caption was written for.
        relevant: [T, n] sparse bool, images that match each caption, its owner among them; None if unknown.
        masks: [T, d] in [0, 1], dimensions that each caption refers to; None if the method has no masks.
        scale: factor on cosines that the method is trained with.
        truncated: number of captions longer than the window of the text tower.
    """

    images: Tensor
    texts: Tensor
    owner: np.ndarray
    relevant: csr_array | None = None
    masks: Tensor | None = None
    scale: float = 1.0
    truncated: int = 0
