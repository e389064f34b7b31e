"""Calibration metrics against their definitions, scikit-learn and torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.metrics import log_loss
from torchmetrics.functional.classification import multiclass_calibration_error

from clipalign.evaluation.metrics.calibration import (
    brier_score,
    calibration,
    calibration_error,
    fit_temperature,
)

seeds = st.integers(0, 10_000)


def sample(
    seed: int, n: int = 300, classes: int = 6, sharpness: float = 2.0
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return (sharpness * rng.normal(size=(n, classes))).astype(np.float32), rng.integers(0, classes, n)


def slow_calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int) -> float:
    total = 0.0
    for b in range(bins):
        chosen = [i for i, c in enumerate(confidence) if b / bins < c <= (b + 1) / bins]
        if chosen:
            accuracy = sum(correct[i] for i in chosen) / len(chosen)
            total += len(chosen) / len(confidence) * abs(accuracy - sum(confidence[chosen]) / len(chosen))
    return total


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(1, 20))
def test_calibration_error_matches_definition_and_torchmetrics(seed: int, bins: int) -> None:
    logits, labels = sample(seed)
    probabilities = softmax(logits.astype(np.float64), axis=1)
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    found = calibration_error(confidence, correct, bins)
    assert found == pytest.approx(slow_calibration_error(confidence, correct, bins))
    expected = multiclass_calibration_error(
        torch.from_numpy(probabilities), torch.from_numpy(labels), num_classes=6, n_bins=bins, norm="l1"
    )
    assert found == pytest.approx(float(expected), abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(1, 20))
def test_equal_mass_bins_have_equal_numbers_of_images(seed: int, bins: int) -> None:
    rng = np.random.default_rng(seed)
    confidence, correct = rng.uniform(0.2, 1, 101), rng.random(101) < 0.5
    order = sorted(range(101), key=lambda i: confidence[i])
    total, start = 0.0, 0
    for b in range(bins):
        chosen = order[start : start + 101 // bins + (b < 101 % bins)]
        start += len(chosen)
        total += abs(sum(correct[i] - confidence[i] for i in chosen)) / 101
    assert calibration_error(confidence, correct, bins, equal_mass=True) == pytest.approx(total)


def test_equal_mass_of_ties_does_not_depend_on_order() -> None:
    rng = np.random.default_rng(0)
    confidence, correct = rng.choice([0.3, 0.6, 0.9], 60), rng.random(60) < 0.5
    found = {
        round(calibration_error(confidence[order], correct[order], 7, equal_mass=True), 12)
        for order in (rng.permutation(60) for _ in range(5))
    }
    assert len(found) == 1


def test_extreme_confidences_fall_into_the_outer_bins() -> None:
    assert calibration_error(np.array([1.0, 1.0]), np.array([True, False])) == 0.5
    assert calibration_error(np.array([0.0]), np.array([True])) == 1.0


def test_one_bin_of_either_kind_is_the_gap_of_the_means() -> None:
    confidence, correct = np.array([0.9, 0.5, 0.7]), np.array([True, False, False])
    for equal_mass in (False, True):
        assert calibration_error(confidence, correct, 1, equal_mass=equal_mass) == pytest.approx(0.7 - 1 / 3)


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_brier_and_nll_match_definition_and_scikit_learn(seed: int) -> None:
    logits, labels = sample(seed, n=40)
    probabilities = softmax(logits.astype(np.float64), axis=1)
    slow = np.mean([sum((p[c] - (c == y)) ** 2 for c in range(6)) for p, y in zip(probabilities, labels)])  # noqa: B905
    assert brier_score(probabilities, labels) == pytest.approx(slow)
    assert 0 <= brier_score(probabilities, labels) <= 2
    values = calibration(logits, labels)
    assert values["brier"] == pytest.approx(slow)
    assert values["nll"] == pytest.approx(log_loss(labels, probabilities, labels=range(6)))


@settings(max_examples=10, deadline=None)
@given(seeds, st.floats(0.05, 20))
def test_temperature_minimises_the_nll_and_scales_with_the_logits(seed: int, factor: float) -> None:
    logits, labels = sample(seed)
    logits[np.arange(len(labels)), labels] += 2
    t = fit_temperature(logits, labels)
    grid = [calibration(logits / u, labels)["nll"] for u in t * np.geomspace(0.5, 2, 41)]
    assert calibration(logits / t, labels)["nll"] <= min(grid) + 1e-7
    assert fit_temperature(factor * logits, labels) == pytest.approx(factor * t, rel=1e-3)


def test_temperature_of_separable_logits_is_the_lower_end() -> None:
    assert fit_temperature(np.eye(3, dtype=np.float32), np.arange(3)) < 0.05
