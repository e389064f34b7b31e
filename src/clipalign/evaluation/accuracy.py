"""Accuracy of outputs: overall, among the top five, per class and per domain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .outputs import Outputs


@dataclass(frozen=True)
class Accuracy:
    """Shares in [0, 1].

    Attributes:
        n: images.
        rows: drawings or photographs behind them.
        top1: share whose highest logit is right; of equal logits the first class counts.
        top5: share whose label is among the five highest (of fewer classes: all).
        per_class: class name -> share of its images that are right; classes without images are left out.
        per_domain: domain name -> share of its images that are right.
        ranked: [n, min(5, C)] int64, classes by falling logit.
    """

    n: int
    rows: int
    top1: float
    top5: float
    per_class: dict[str, float]
    per_domain: dict[str, float]
    ranked: np.ndarray

    @property
    def class_mean(self) -> float:
        """Mean over classes, which weighs rare classes as much as frequent ones."""
        return float(np.mean(list(self.per_class.values())))


def accuracy(outputs: Outputs, class_names: Sequence[str], domain_names: Sequence[str]) -> Accuracy:
    """Score outputs.

    Args:
        outputs: at least one image.
        class_names: the label space of the logits.
        domain_names: the source's.
    """
    ranked = np.argsort(-outputs.logits, axis=1, kind="stable")[:, :5]
    right = ranked == outputs.labels[:, None]
    top1 = right[:, 0]
    return Accuracy(
        n=len(top1),
        rows=len(np.unique(outputs.rows)),
        top1=float(top1.mean()),
        top5=float(right.any(axis=1).mean()),
        per_class={
            class_names[k]: float(top1[outputs.labels == k].mean()) for k in np.unique(outputs.labels)
        },
        per_domain={
            domain_names[d]: float(top1[outputs.domains == d].mean()) for d in np.unique(outputs.domains)
        },
        ranked=ranked,
    )
