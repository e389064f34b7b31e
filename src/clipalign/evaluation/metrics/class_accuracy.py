"""Accuracy within each class, averaged over classes."""

from __future__ import annotations

import numpy as np

from ..outputs import Outputs
from . import METRICS
from .base import ClassificationMetric, Field


@METRICS.register("class-accuracy")
class ClassAccuracy(ClassificationMetric):
    """Mean of the accuracies of the classes (balanced accuracy), so rare classes count as much as frequent ones."""

    fields = (
        Field(
            "class_accuracy",
            "class mean",
            note="Class mean: accuracy within each class, averaged over classes.",
            table=False,
        ),
    )

    def compute(self, outputs: Outputs) -> dict[str, float]:
        return {"class_accuracy": float(np.mean(list(accuracy_by_class(outputs).values())))}


def accuracy_by_class(outputs: Outputs) -> dict[str, float]:
    """Return the accuracy of each class by name; classes without images are left out."""
    return {
        outputs.class_names[c]: float(outputs.correct[outputs.labels == c].mean())
        for c in np.unique(outputs.labels)
    }
