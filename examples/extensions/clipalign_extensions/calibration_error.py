"""A metric: expected calibration error (Guo et al., On Calibration of Modern Neural Networks, ICML 2017)."""

from __future__ import annotations

import numpy as np
from scipy.special import softmax

from clipalign.evaluation import Outputs
from clipalign.evaluation.metrics import METRICS, ClassificationMetric, Field

BINS = 15


@METRICS.register("calibration-error")
class CalibrationError(ClassificationMetric):
    """Gap between confidence and accuracy in 15 bins of equal width, weighted by the images in each bin."""

    fields = (
        Field(
            "calibration_error",
            "ECE",
            unit="%",
            digits=1,
            higher_is_better=False,
            note="ECE: expected calibration error with 15 bins.",
        ),
    )

    def compute(self, outputs: Outputs) -> dict[str, float]:
        confidence = softmax(outputs.logits, axis=1).max(axis=1)  # [n]
        bins = np.minimum((confidence * BINS).astype(int), BINS - 1)  # [n]
        gaps = np.bincount(bins, weights=confidence - outputs.correct, minlength=BINS)  # [BINS], sums
        return {"calibration_error": float(np.abs(gaps).sum() / len(confidence))}
