"""Calibration of probabilities: calibration error, Brier score, log-likelihood, and temperature scaling."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from ..context import MetricContext, ModelOutputs
from . import METRICS
from .base import Field, ModelMetric

BINS = 15
TEMPERATURES = (1e-3, 1e3)  # searched range
SCALED = "temperature-scaled"


def _fields(variant: str = "") -> tuple[Field, ...]:
    end = "_scaled" if variant else ""
    return (
        Field(
            f"ece{end}",
            "ECE",
            higher_is_better=False,
            variant=variant,
            note=f"ECE: expected calibration error, {BINS} bins of equal width.",
        ),
        Field(
            f"ece_mass{end}",
            "equal-mass ECE",
            higher_is_better=False,
            variant=variant,
            note="Equal-mass ECE: as many images in each bin.",
        ),
        Field(
            f"brier{end}",
            "Brier",
            unit="",
            digits=3,
            higher_is_better=False,
            variant=variant,
            note="Brier: squared error of the probabilities, summed over classes.",
        ),
        Field(
            f"nll{end}",
            "NLL",
            unit="nats",
            digits=3,
            higher_is_better=False,
            variant=variant,
            note="NLL: negative log-likelihood of the true class.",
        ),
    )


@METRICS.register("calibration")
class Calibration(ModelMetric):
    """Calibration error, Brier score and log-likelihood, before and after temperature scaling.

    The temperature is fitted on the source validation rows among the base classes, never on test rows; without a
    protocol there are none, and the scaled values are left out.
    """

    fields = (
        *_fields(),
        *_fields(SCALED),
        Field(
            "temperature",
            "temperature",
            unit="",
            digits=3,
            higher_is_better=None,
            note="Temperature: divisor of the logits that minimises the NLL on source validation; above 1 the model is "
            "overconfident.",
        ),
    )

    def check(self, context: MetricContext) -> None:
        """Calibration is defined for every classifier."""

    def compute(self, one: ModelOutputs) -> dict[str, float]:
        logits, labels = one.outputs.logits, one.outputs.labels
        values = calibration(logits, labels)
        validation = one.context.validation
        if validation is None:
            return values
        t = one.context.once("temperature", lambda: fit_temperature(validation.logits, validation.labels))
        scaled = calibration(logits / t, labels)
        return values | {"temperature": t} | {f"{name}_scaled": value for name, value in scaled.items()}


def calibration(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return the four values of logits [n, C] for labels [n], by name of the field."""
    logs = log_softmax(logits.astype(np.float64), axis=1)  # [n, C]
    probabilities = np.exp(logs)  # [n, C]
    confidence = probabilities.max(axis=1)  # [n]
    correct = logits.argmax(axis=1) == labels  # [n]
    return {
        "ece": calibration_error(confidence, correct),
        "ece_mass": calibration_error(confidence, correct, equal_mass=True),
        "brier": brier_score(probabilities, labels),
        "nll": float(-logs[np.arange(len(labels)), labels].mean()),
    }


def calibration_error(
    confidence: np.ndarray, correct: np.ndarray, bins: int = BINS, *, equal_mass: bool = False
) -> float:
    """Return the expected calibration error: sum over bins of n_b / n * |accuracy_b - confidence_b|.

    Range [0, 1], lower is better. Images of equal confidence count with their mean accuracy, so that the result of
    bins of equal mass does not depend on the order of images.

    Args:
        confidence: [n] in [0, 1], probability of the predicted class.
        correct: [n] bool.
        bins: number of bins, (0, 1/bins], ..., (1 - 1/bins, 1] or of equal mass.
        equal_mass: n // bins or n // bins + 1 images per bin, by confidence.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017; equal mass: Nguyen and O'Connor, Posterior
    calibration and exploratory analysis for NLP models, EMNLP 2015.

    Example:
        >>> calibration_error(np.array([0.75, 0.75]), np.array([True, False]))
        0.25
    """
    gaps = correct.astype(np.float64) - confidence  # [n]
    if equal_mass:
        _, same = np.unique(confidence, return_inverse=True)  # [n]
        gaps = (np.bincount(same, gaps) / np.bincount(same))[same]  # [n], mean of each confidence
        parts = np.array_split(gaps[np.argsort(confidence, kind="stable")], bins)
        return float(sum(abs(part.sum()) for part in parts) / len(gaps))
    at = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)  # [n]
    return float(np.abs(np.bincount(at, gaps, bins)).sum() / len(gaps))


def brier_score(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean over images of the sum over classes of (p_c - 1[c = label])^2.

    Range [0, 2], lower is better.

    Args:
        probabilities: [n, C].
        labels: [n].

    Source: Brier, Verification of forecasts expressed in terms of probability, Monthly Weather Review 78, 1950.

    Example:
        >>> brier_score(np.array([[0.5, 0.5], [0.0, 1.0]]), np.array([0, 0]))
        1.25
    """
    true = probabilities[np.arange(len(labels)), labels]  # [n]
    return float(((probabilities**2).sum(axis=1) - 2 * true + 1).mean())


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature T in [1e-3, 1e3] that minimises the NLL of logits / T.

    The NLL is convex in 1 / T, so it has one minimum in log T. It has none if every image is right by a margin; the
    result is then the lower end of the range.

    Args:
        logits: [n, C].
        labels: [n].

    Source: Guo et al., ICML 2017, section 4.2.
    """
    exact = logits.astype(np.float64)  # [n, C]

    def nll(log_t: float) -> float:
        logs = log_softmax(exact * np.exp(-log_t), axis=1)  # [n, C]
        return float(-logs[np.arange(len(labels)), labels].mean())

    found = minimize_scalar(nll, bounds=np.log(TEMPERATURES), method="bounded", options={"xatol": 1e-8})
    return float(np.exp(found.x))
