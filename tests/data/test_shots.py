from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipalign.data.splits import draw_shots


def coop(items: list[tuple[int, int]], shots: int) -> list[int]:
    """Return the rows that CoOp's code draws from (row, label) pairs with Python's global generator."""
    labels = list(dict.fromkeys(label for _, label in items))
    drawn = []
    for label in labels:
        members = [row for row, other in items if other == label]
        drawn += random.sample(members, shots) if len(members) >= shots else members
    return drawn


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 6), st.integers(1, 3))
def test_draw_shots_equals_coop(labels: list[int], shots: int, seed: int) -> None:
    cut = len(labels) * 2 // 3
    rows = np.arange(len(labels))
    train, validation = draw_shots(rows[:cut], rows[cut:], np.array(labels), shots, seed)
    random.seed(seed)
    pairs = list(enumerate(labels))
    assert train.tolist() == coop(pairs[:cut], shots)
    assert validation.tolist() == coop(pairs[cut:], min(shots, 4))


def test_draw_shots_of_seed_one_is_pinned() -> None:
    # Class 2 has the first row, so it is drawn first.
    labels = np.array([2, 0, 2, 1, 0, 2, 1, 0, 2, 1, 0, 2])
    train, validation = draw_shots(np.arange(12), np.array([], int), labels, shots=2, seed=1)
    assert train.tolist() == [2, 0, 7, 1, 6, 9]
    assert not set(validation) & set(train) and len(validation) == 5  # class 1 has one row left


@pytest.mark.parametrize("shots", [1, 5])
def test_draw_shots_takes_all_images_of_small_classes(shots: int) -> None:
    train, _ = draw_shots(np.arange(3), np.array([], int), np.array([0, 0, 1]), shots, 1)
    assert len(train) == {1: 2, 5: 3}[shots]
