"""Augmentations: crop areas, colours, and the generator they draw from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from clipalign.core.config import RecipeOptions
from clipalign.core.types import Augment, Preprocess
from clipalign.data.augment import AUGMENTATIONS
from clipalign.data.decode import evaluation_view, training_view

SIDE = 64
PREPROCESS = Preprocess((SIDE, SIDE), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear")
# Red grows from left to right and green from top to bottom, so that a view tells its crop.
RAMP = np.stack([*np.meshgrid(np.arange(256), np.arange(256)), np.full((256, 256), 128)], axis=-1)
IMAGE = Image.fromarray(RAMP.astype(np.uint8))


def view(augment: Any, seed: int, image: Image.Image = IMAGE) -> Tensor:
    return training_view(image, np.random.default_rng(seed), replace(PREPROCESS, augment=augment))


def area(image: Tensor) -> float:
    """Return the share of IMAGE that a view [3, H, W] covers, from its range of red and green."""
    span = [float(channel.max() - channel.min()) for channel in image[:2]]
    return span[0] * span[1]


def test_option_takes_every_augmentation() -> None:
    assert (
        set(AUGMENTATIONS)
        == set(get_args(Augment))
        == set(get_args(get_type_hints(RecipeOptions)["augment"]))
    )


@pytest.mark.parametrize(("augment", "low"), [("clip-crop", 0.7), ("tip-adapter", 0.5), ("coop", 0.08)])
def test_crops_cover_the_published_range_of_areas(augment: str, low: float) -> None:
    areas = [area(view(augment, seed)) for seed in range(300)]
    # The range of pixel values is up to a resampled pixel smaller than the crop.
    assert low - 0.03 < min(areas) < low + 0.1 and 0.9 < max(areas) <= 1


def test_half_of_the_views_are_mirrored_and_colours_are_kept() -> None:
    views = [view("coop", seed) for seed in range(200)]
    mirrored = sum(bool(v[0, 0, 0] > v[0, 0, -1]) for v in views)
    assert 70 < mirrored < 130
    assert all(torch.allclose(v[2], torch.full_like(v[2], 128 / 255), atol=2 / 255) for v in views)


def test_no_augmentation_gives_the_evaluation_view() -> None:
    assert torch.equal(view("none", 3), evaluation_view(IMAGE, PREPROCESS))
    assert torch.equal(view("none", 3), view("none", 4))


def test_domainbed_jitters_colours_and_drops_a_tenth_of_them() -> None:
    plain = Image.new("RGB", (64, 64), (200, 100, 50))
    views = torch.stack([view("domainbed", seed, plain)[:, 0, 0] for seed in range(400)])  # [400, 3]
    grey = (views == views[:, :1]).all(dim=1)  # [400]
    assert 0.05 < float(grey.float().mean()) < 0.16
    coloured = views[~grey]
    assert len(coloured.unique(dim=0)) > 300
    mean = coloured.mean(dim=1)
    assert 0.6 * 350 / 765 < float(mean.min()) < 0.8 * 350 / 765
    assert 1.2 * 350 / 765 < float(mean.max()) < 1.75 * 350 / 765


@pytest.mark.parametrize("augment", get_args(Augment))
def test_views_depend_on_the_generator_only(augment: str) -> None:
    assert torch.equal(view(augment, 5), view(augment, 5))


def test_domainbed_draws_the_same_crops_as_clip_crop() -> None:
    # Colours are drawn after the crop, so geometry is comparable between the two.
    grey = Image.fromarray(RAMP.astype(np.uint8)[..., 0])
    crop, jittered = view("clip-crop", 7, grey.convert("RGB")), view("domainbed", 7, grey.convert("RGB"))
    assert float(torch.corrcoef(torch.stack([crop[0].flatten(), jittered[0].flatten()]))[0, 1]) > 0.95
