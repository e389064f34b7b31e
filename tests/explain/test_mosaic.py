"""Mosaics and the mass of maps on their quadrants."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clipalign.backbone import Backbone
from clipalign.explain.mosaic import groups_of_four, mosaics, quadrant_mass, text_maps


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 7), st.integers(1, 7))
def test_quadrant_mass_matches_fine_pixels(seed: int, height: int, width: int) -> None:
    maps = torch.rand(2, height, width, generator=torch.Generator().manual_seed(seed)).double()
    # Each cell becomes 2 x 2 pixels, so that the halves of an odd grid are whole pixels.
    pixels = maps.repeat_interleave(2, 1).repeat_interleave(2, 2) / 4
    quarters = [pixels[:, y : y + height, x : x + width].sum((1, 2)) for y in (0, height) for x in (0, width)]
    found = quadrant_mass(maps)
    torch.testing.assert_close(found, torch.stack(quarters, dim=1))
    torch.testing.assert_close(found.sum(-1), maps.sum((1, 2)))


@pytest.mark.parametrize("size", [(8, 8), (9, 7)])
def test_mosaic_has_the_images_in_reading_order(size: tuple[int, int]) -> None:
    colours = torch.arange(8.0).view(2, 4, 1, 1, 1).expand(2, 4, 3, *size)
    whole = mosaics(colours)
    assert whole.shape == (2, 3, *size)
    corners = [whole[1, 0, y, x].item() for y in (0, -1) for x in (0, -1)]
    assert corners == pytest.approx([4, 5, 6, 7])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 8), st.integers(0, 60))
def test_groups_have_four_classes_and_use_an_image_once(seed: int, classes: int, n: int) -> None:
    labels = np.random.default_rng(seed).integers(0, classes, n)
    groups = groups_of_four(labels, most=5)
    assert groups.shape[1] == 4 and len(groups) <= 5
    assert len(set(groups.ravel().tolist())) == groups.size
    assert all(len(set(labels[group])) == 4 for group in groups)
    if classes < 4:
        assert len(groups) == 0


def test_text_maps_are_softmaxes_over_patches_of_each_text(tiny: Backbone) -> None:
    images = torch.randn(2, 3, *tiny.image_size, generator=torch.Generator().manual_seed(0))
    texts = torch.nn.functional.normalize(torch.randn(2, 4, tiny.embed_dim), dim=-1)
    maps = text_maps(tiny, images, texts)
    assert maps.shape == (2, 4, *tiny.grid)
    with torch.no_grad():
        guide = tiny.dense(images, guide="dv").guide
    assert guide is not None
    tokens = guide[1] / guide[1].norm(dim=1, keepdim=True)  # [M, d]
    expected = (tiny.logit_scale * tokens @ texts[1, 2]).softmax(0).detach()
    torch.testing.assert_close(maps[1, 2].flatten(), expected)
