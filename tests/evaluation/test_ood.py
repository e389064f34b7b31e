"""Out-of-distribution metrics against their definitions and torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from clipalign.evaluation.metrics.ood import confidence_scores, detection

seeds = st.integers(0, 10_000)


@settings(max_examples=30, deadline=None)
@given(seeds, st.integers(1, 40), st.integers(1, 40))
def test_detection_matches_definition_and_torchmetrics(seed: int, n: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    inside, outside = rng.integers(0, 12, n) + 2.0, rng.integers(0, 12, m) + 0.0  # with ties
    found = detection(inside, outside)
    pairs = [(a > b) + 0.5 * (a == b) for a in inside for b in outside]
    assert found["auroc"] == pytest.approx(np.mean(pairs))
    thresholds = [t for t in inside if np.mean(inside >= t) >= 0.95]
    assert found["fpr95"] == pytest.approx(np.mean(outside >= max(thresholds)))
    scores = torch.from_numpy(-np.concatenate([inside, outside])).float().sigmoid()
    new = torch.from_numpy(np.repeat([0, 1], [n, m]))
    assert found["auroc"] == pytest.approx(float(binary_auroc(scores, new)), abs=1e-5)
    assert found["aupr"] == pytest.approx(float(binary_average_precision(scores, new)), abs=1e-5)
    assert all(0 <= value <= 1 for value in found.values())


def test_separated_scores_are_detected() -> None:
    found = detection(np.arange(20) + 100.0, np.arange(7.0))
    assert found == pytest.approx({"auroc": 1.0, "aupr": 1.0, "fpr95": 0.0})


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_confidence_scores_match_their_formulas(seed: int) -> None:
    logits = 10 * np.random.default_rng(seed).normal(size=(5, 7))
    found = confidence_scores(logits, scale=20.0)
    for i, row in enumerate(torch.from_numpy(logits)):
        assert found["msp"][i] == pytest.approx(float(row.softmax(0).max()))
        assert found["maxlogit"][i] == pytest.approx(float(row.max()))
        assert found["energy"][i] == pytest.approx(float(row.exp().sum().log()))
        assert found["mcm"][i] == pytest.approx(float((row / 20).softmax(0).max()))
