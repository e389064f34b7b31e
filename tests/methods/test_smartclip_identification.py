"""SmartCLIP's masks identify known factors (Theorem 4.3), and do not without sparsity or modular pairs."""

from __future__ import annotations

import pytest

from tests.helpers.identification import recover


def test_intersections_of_masks_identify_each_factor() -> None:
    found = recover(seed=0)
    assert found.own.min() > 0.95, found
    assert found.others.max() < 0.2, found
    assert found.union > 0.85, found


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_factors_are_identified_with_other_seeds(seed: int) -> None:
    found = recover(seed)
    assert found.own.min() > 0.95 and found.others.max() < 0.2 and found.union > 0.85, found


@pytest.mark.slow
def test_without_sparsity_masks_mix_factors() -> None:
    found = recover(seed=0, sparsity_weight=0.0)
    assert found.whole.min() > 0.95  # the image features hold every factor
    assert found.others.max() > 0.3, found  # but the dimensions of a factor determine others, too


@pytest.mark.slow
def test_without_modular_pairs_masks_lose_factors() -> None:
    found = recover(seed=0, modular=False)
    assert found.whole.min() > 0.95
    assert found.own.min() < 0.8, found
