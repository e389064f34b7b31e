from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clipalign.explain.scores import average_precision, correlation, lift, min_max, pointing, score, upsample


def quarter(height: int = 8, width: int = 12) -> torch.Tensor:
    """Return a mask of the upper left quarter."""
    mask = torch.zeros(1, height, width)
    mask[:, : height // 2, : width // 2] = 1
    return mask


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 5), st.integers(2, 9), st.integers(2, 9))
def test_correlation_matches_numpy(seed: int, count: int, height: int, width: int) -> None:
    random = torch.Generator().manual_seed(seed)
    maps, masks = (torch.rand(count, height, width, generator=random) for _ in range(2))
    expected = [
        np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(maps.numpy(), masks.numpy(), strict=True)
    ]
    np.testing.assert_allclose(correlation(maps, masks).numpy(), expected, atol=1e-5)


def test_perfect_and_inverted_maps_have_extreme_scores() -> None:
    mask = quarter()
    assert correlation(3 * mask - 7, mask).item() == pytest.approx(1)
    assert correlation(-mask, mask).item() == pytest.approx(-1)
    assert average_precision(mask, mask).item() == pytest.approx(1)
    assert pointing(mask, mask).item() == 1 and pointing(-mask, mask).item() == 0


def test_constant_map_has_chance_scores() -> None:
    mask, flat = quarter(), torch.full((1, 8, 12), 0.3)
    assert correlation(flat, mask).item() == 0
    assert average_precision(flat, mask).item() == pytest.approx(0.25)
    # Among equally high pixels a quarter lies on the object.
    assert pointing(flat, mask).item() == pytest.approx(0.25)
    assert lift(torch.full((1, 4, 6), 1 / 24), mask).item() == pytest.approx(1)


def test_lift_of_attention_only_on_the_object_is_one_over_its_area() -> None:
    attention = torch.zeros(1, 4, 6)
    attention[:, :2, :3] = 1 / 6
    assert lift(attention, quarter()).item() == pytest.approx(4)
    # A patch half covered counts by half.
    half = torch.zeros(1, 8, 12)
    half[:, :1, :2] = 1
    single = torch.zeros(1, 4, 6)
    single[:, 0, 0] = 1
    assert lift(single, half).item() == pytest.approx(0.5 / (2 / 96))


@pytest.mark.parametrize("function", [correlation, pointing, average_precision, lift])
def test_scores_without_an_object_are_nan(
    function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> None:
    assert math.isnan(function(torch.rand(1, 8, 12), torch.zeros(1, 8, 12)).item())


def test_min_max_scales_each_map() -> None:
    maps = torch.tensor([[[1.0, 3.0], [2.0, 5.0]], [[-4.0, -4.0], [-4.0, -4.0]]])
    expected = torch.tensor([[[0.0, 0.5], [0.25, 1.0]], [[0.0, 0.0], [0.0, 0.0]]])
    torch.testing.assert_close(min_max(maps), expected)


def test_upsample_keeps_rows_and_columns_of_oblong_grid() -> None:
    maps = torch.arange(2.0)[None, :, None].expand(1, 2, 5)  # varies from row to row only
    pixels = upsample(maps, (8, 10))
    assert pixels.shape == (1, 8, 10)
    torch.testing.assert_close(pixels, pixels[:, :, :1].expand(1, 8, 10))
    assert pixels[0, 0, 0] == 0 and pixels[0, -1, 0] == 1
    # Half way between the centres of the patches.
    assert pixels[0, 3:5, 0].mean() == pytest.approx(0.5)


def test_score_averages_over_images_with_an_object() -> None:
    masks = torch.cat([quarter(), torch.zeros(1, 8, 12)])
    maps = torch.zeros(2, 4, 6)
    maps[:, :2, :3] = 1
    scores = score(maps, masks, attention=True)
    assert scores.images == 1 and scores.lift == pytest.approx(4)
    assert scores.pointing == 1 and scores.correlation > 0.8 and scores.average_precision > 0.9
    assert score(maps, masks, attention=False).lift is None


def test_uniform_map_has_chance_scores() -> None:
    masks = quarter(64, 64)
    scores = score(torch.full((1, 7, 7), 1 / 49), masks, attention=True)
    assert scores.correlation == 0 and scores.lift == pytest.approx(1)
    assert scores.pointing == pytest.approx(0.25) and scores.average_precision == pytest.approx(0.25)
