"""Top-5 accuracy."""

from __future__ import annotations

from ..outputs import Outputs
from . import METRICS
from .base import ClassificationMetric, Field


@METRICS.register("top5")
class Top5(ClassificationMetric):
    """Share of images whose class is among the five highest logits; 1 if there are at most five classes."""

    fields = (Field("top5", "top-5", table=False),)

    def compute(self, outputs: Outputs) -> dict[str, float]:
        hits = outputs.ranked == outputs.labels[:, None]  # [n, 5]
        return {"top5": float(hits.any(axis=1).mean())}
