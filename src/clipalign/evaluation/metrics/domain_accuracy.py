"""Accuracy of each domain."""

from __future__ import annotations

import numpy as np

from ..outputs import Outputs
from . import METRICS
from .base import ClassificationMetric, Field


@METRICS.register("domain-accuracy")
class DomainAccuracy(ClassificationMetric):
    """Accuracy by domain; domains without images are left out."""

    fields = (Field("domain_accuracy", "accuracy by domain", by="domain", table=False),)

    def compute(self, outputs: Outputs) -> dict[str, dict[str, float]]:
        return {
            "domain_accuracy": {
                outputs.domain_names[d]: float(outputs.correct[outputs.domains == d].mean())
                for d in np.unique(outputs.domains)
            }
        }
