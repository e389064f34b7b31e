"""Stability metrics against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_similarity

from clipalign.evaluation.metrics.stability import linear_cka, mean_cosine


def slow_cka(x: np.ndarray, y: np.ndarray) -> float:
    """HSIC of the centred Gram matrices, normalised."""
    n = len(x)
    centre = np.eye(n) - np.ones((n, n)) / n
    k, l_ = centre @ x @ x.T @ centre, centre @ y @ y.T @ centre
    return float(np.trace(k @ l_) / np.sqrt(np.trace(k @ k) * np.trace(l_ @ l_)))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 12), st.integers(1, 5), st.integers(1, 5))
def test_cka_matches_gram_matrices_and_is_invariant(seed: int, n: int, d: int, e: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, d)), rng.normal(size=(n, e))
    found = linear_cka(x, y)
    assert found == pytest.approx(slow_cka(x, y))
    assert -1e-9 <= found <= 1 + 1e-9
    rotation, _ = np.linalg.qr(rng.normal(size=(d, d)))
    assert linear_cka(2 * x @ rotation + 3, y) == pytest.approx(found)
    assert linear_cka(x, x @ rotation) == pytest.approx(1)


def test_mean_cosine_matches_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 9, 4)).astype(np.float32)
    assert mean_cosine(x, y) == pytest.approx(cosine_similarity(x, y).diagonal().mean(), abs=1e-6)
    assert mean_cosine(x, -2 * x) == pytest.approx(-1)
