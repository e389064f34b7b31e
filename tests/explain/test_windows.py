"""Windows over photos, and their merged maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clipalign.core.errors import UserError
from clipalign.core.types import Preprocess
from clipalign.data.decode import evaluation_view
from clipalign.explain.windows import Box, centre_box, crop, view_of


def preprocess(height: int = 32, width: int = 32) -> Preprocess:
    return Preprocess((height, width), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def gradient(width: int, height: int) -> Image.Image:
    """Return an image whose red channel grows to the right and whose green channel grows downwards."""
    red, green = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([red, green, 0 * red], axis=-1).round().astype(np.uint8))


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 90), st.integers(1, 90), st.sampled_from([(32, 32, 4, 4), (16, 48, 2, 6), (32, 32, 1, 1)])
)
def test_windows_cover_the_photo_in_place(width: int, height: int, tower: tuple[int, int, int, int]) -> None:
    """Merging the mean colour of each patch gives the colours of the photo, resized to the grid."""
    if max(width, height) > 16 * min(width, height):
        return
    size, cells = tower[:2], tower[2:]
    view = view_of(gradient(width, height), preprocess(*size), cells)
    assert view.images.shape == (1 + len(view.corners), 3, *size)
    assert view.covered.is_all
    colours = torch.nn.functional.adaptive_avg_pool2d(view.images, cells)  # [1 + n, 3, gh, gw]
    merged = view.merge(colours)
    assert merged.shape == (3, *view.grid)
    if view.corners:
        patch = (size[0] // cells[0], size[1] // cells[1])
        whole = gradient(width, height).resize((view.grid[1] * patch[1], view.grid[0] * patch[0]), 3)
        pixels = torch.from_numpy(np.array(whole)).permute(2, 0, 1) / 127.5 - 1
        expected = torch.nn.functional.adaptive_avg_pool2d(pixels, view.grid)
        torch.testing.assert_close(merged, expected, atol=0.02, rtol=0)


def test_square_photo_is_one_view_without_windows() -> None:
    view = view_of(gradient(50, 50), preprocess(), (4, 4))
    assert len(view.images) == 1 and view.corners == () and view.centre.is_all
    expected = preprocess().normalise(evaluation_view(gradient(50, 50), preprocess())[None])
    assert torch.equal(view.images, expected)
    maps = torch.rand(1, 2, 4, 4)
    assert torch.equal(view.merge(maps), maps[0])


def test_centre_view_is_what_predictions_see() -> None:
    whole, centre = (view_of(gradient(90, 40), preprocess(), (4, 4), whole=w) for w in (True, False))
    expected = preprocess().normalise(evaluation_view(gradient(90, 40), preprocess())[None])
    assert torch.equal(whole.images[:1], expected) and torch.equal(centre.images, expected)
    assert whole.covered.is_all and centre.covered == centre.centre == whole.centre
    assert whole.grid == (4, 9) and whole.corners == ((0, 0), (0, 2), (0, 4), (0, 5))


def test_overlaps_are_weighted_means() -> None:
    view = view_of(gradient(48, 32), preprocess(), (4, 4))
    maps = torch.stack([torch.zeros(4, 4), torch.zeros(4, 4), torch.ones(4, 4)])  # centre view, two windows
    merged = view.merge(maps)[0]
    # Columns 2 and 3 belong to both windows, with weights 0.75 and 0.25 of the left one.
    torch.testing.assert_close(merged, torch.tensor([0.0, 0.0, 0.25, 0.75, 1.0, 1.0]))


@pytest.mark.parametrize(
    ("image", "model", "shape"),
    [
        ((90, 60), (64, 64), (60, 60)),  # width x height: the central square
        ((60, 90), (64, 64), (60, 60)),
        ((90, 60), (32, 64), (30, 60)),  # a wide model sees a wide part
        ((4000, 3000), (64, 64), (3000, 3000)),
        ((1, 1), (64, 64), (1, 1)),
    ],
)
def test_centre_has_the_shape_of_the_model_input(
    image: tuple[int, int], model: tuple[int, int], shape: tuple[int, int]
) -> None:
    part = crop(Image.new("RGB", image, "white"), centre_box(image, model))
    assert (part.height, part.width) == shape
    assert np.asarray(part).min() == 255  # nothing from outside the image


def test_crop_is_the_centre() -> None:
    pixels = np.zeros((40, 100, 3), np.uint8)
    pixels[:, 30:70] = 255
    assert np.asarray(crop(Image.fromarray(pixels), centre_box((100, 40), (64, 64)))).min() == 255


@pytest.mark.parametrize(("width", "height"), [(1, 1), (2, 30), (30_000, 1), (1, 30_000), (3_200, 200)])
def test_extreme_sizes_are_covered_or_refused(width: int, height: int) -> None:
    picture = Image.new("RGB", (width, height), "grey")
    if max(width, height) > 16 * min(width, height):
        with pytest.raises(UserError, match=f"{width} x {height} pixels.*--view centre"):
            view_of(picture, preprocess(), (4, 4))
    else:
        view = view_of(picture, preprocess(), (4, 4))
        assert len(view.images) <= 32 and view.covered == Box(0, 0, 1, 1)
    centre = view_of(picture, preprocess(), (4, 4), whole=False)
    assert centre.images.shape == (1, 3, 32, 32) and centre.grid == (4, 4)
    assert centre.centre.right - centre.centre.left == pytest.approx(min(1, height / width))
