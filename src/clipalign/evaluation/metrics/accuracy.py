"""Top-1 accuracy."""

from __future__ import annotations

from ..outputs import Outputs
from . import METRICS
from .base import ClassificationMetric, Field


@METRICS.register("accuracy")
class Accuracy(ClassificationMetric):
    """Share of images whose highest logit is that of their class; of equal logits the first one counts."""

    fields = (Field("accuracy", "accuracy", headline=True, note="Accuracy: top-1."),)

    def compute(self, outputs: Outputs) -> dict[str, float]:
        return {"accuracy": float(outputs.correct.mean())}
