"""Whole photos for towers that take one size: overlapping windows, and their maps merged on one grid of patches."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_tensor

from ..core.errors import UserError
from ..core.types import Preprocess
from ..data.decode import evaluation_view

LONGEST_RATIO = 16  # longer side over shorter side; windows are twice as many


@dataclass(frozen=True)
class Box:
    """A rectangle in a photo, as shares of its width and height."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def is_all(self) -> bool:
        """Whether it is the whole photo."""
        return max(self.left, self.top, 1 - self.right, 1 - self.bottom) < 1e-6


@dataclass(frozen=True)
class View:
    """A photo as a model sees it.

    The centre view, on which predictions are made, comes first in `images`; windows follow. If the photo has the shape
    of the model's input, or only its centre is wanted, the centre view is the only window.

    Attributes:
        images: [1 + n, 3, H, W], or [1, 3, H, W] without windows; normalised.
        corners: row and column of the first patch of each window on the grid of the photo; empty without windows.
        cells: rows and columns of patches of a window, gh and gw.
        grid: rows and columns of patches of the photo, Gh and Gw.
        covered: part of the photo that the maps cover.
        centre: part of the photo that predictions see.
    """

    images: Tensor
    corners: tuple[tuple[int, int], ...]
    cells: tuple[int, int]
    grid: tuple[int, int]
    covered: Box
    centre: Box

    def merge(self, maps: Tensor) -> Tensor:
        """Merge the maps of all images, [1 + n, ..., gh, gw], into one map of the photo, [..., Gh, Gw].

        Where windows overlap, values are averaged, with less weight near the edge of a window.
        """
        if not self.corners:
            return maps[0]
        (rows, columns), weight = self.cells, taper(self.cells).to(maps)  # [gh, gw]
        total, weights = maps.new_zeros(*maps.shape[1:-2], *self.grid), maps.new_zeros(self.grid)
        for window, (row, column) in zip(maps[1:], self.corners, strict=True):
            down, across = slice(row, row + rows), slice(column, column + columns)
            total[..., down, across] += weight * window
            weights[down, across] += weight
        return total / weights  # [..., Gh, Gw]


def view_of(
    picture: Image.Image, preprocess: Preprocess, cells: tuple[int, int], *, whole: bool = True
) -> View:
    """Cut a photo into windows of the model's input size.

    The photo is resized so that it just covers the input, with its longer side rounded to whole patches. Windows start
    every half window, and the last one ends at the edge.

    Args:
        picture: photo.
        preprocess: input size, and normalisation.
        cells: rows and columns of patches of an input.
        whole: cover the whole photo; else only the centre view.

    Raises:
        UserError: a photo whose sides differ by more than a factor of `LONGEST_RATIO`.
    """
    long, short = max(picture.size), min(picture.size)
    if long > LONGEST_RATIO * short:
        if whole:
            raise UserError(
                f"the image has {picture.width} x {picture.height} pixels, and its sides differ by more than a factor "
                f"of {LONGEST_RATIO}; crop it, or give --view centre"
            )
        centred = crop(
            picture, centre_box(picture.size, preprocess.size)
        )  # else resizing would need gigabytes
        box = centre_box(picture.size, preprocess.size)
        return replace(view_of(centred, preprocess, cells, whole=False), covered=box, centre=box)
    centre = evaluation_view(picture, preprocess)[None]  # [1, 3, H, W]
    box = centre_box(picture.size, preprocess.size)
    if not whole or box.is_all:
        return View(preprocess.normalise(centre), (), cells, cells, box, box)
    height, width = preprocess.size
    patch = (height // cells[0], width // cells[1])
    scale = max(height / picture.height, width / picture.width)  # pixels of the input per pixel of the photo
    rows = max(cells[0], round(picture.height * scale / patch[0]))
    columns = max(cells[1], round(picture.width * scale / patch[1]))
    filter = Image.Resampling[preprocess.interpolation.upper()]
    resized = to_tensor(picture.resize((columns * patch[1], rows * patch[0]), filter))
    corners = tuple((row, column) for row in starts(rows, cells[0]) for column in starts(columns, cells[1]))
    windows = [
        resized[:, row * patch[0] : row * patch[0] + height, column * patch[1] : column * patch[1] + width]
        for row, column in corners
    ]
    images = preprocess.normalise(torch.cat([centre, torch.stack(windows)]))  # [1 + n, 3, H, W]
    return View(images, corners, cells, (rows, columns), Box(0, 0, 1, 1), box)


def starts(length: int, window: int) -> list[int]:
    """Return where windows of a given length start: every half window, and flush with the end.

    >>> starts(18, 12)
    [0, 6]
    >>> starts(20, 12)
    [0, 6, 8]
    """
    last = length - window
    return [*range(0, last, max(1, window // 2)), last]


def taper(cells: tuple[int, int]) -> Tensor:
    """Return the weights of a window's patches, which fall linearly from its centre to its edges: [gh, gw].

    >>> taper((1, 4))
    tensor([[0.2500, 0.7500, 0.7500, 0.2500]])
    """
    rows, columns = (1 - (torch.arange(n) - (n - 1) / 2).abs() / (n / 2) for n in cells)
    return rows[:, None] * columns  # [gh, gw]


def centre_box(picture: tuple[int, int], size: tuple[int, int]) -> Box:
    """Return the part of a photo that `evaluation_view` keeps.

    Args:
        picture: width and height of the photo.
        size: height and width of the model's input.
    """
    scale = min(picture) / max(size)  # pixels of the photo per pixel of the input
    wide, tall = (min(1.0, side * scale / full) for side, full in zip(size[::-1], picture, strict=True))
    return Box((1 - wide) / 2, (1 - tall) / 2, (1 + wide) / 2, (1 + tall) / 2)


def crop(picture: Image.Image, box: Box) -> Image.Image:
    """Return a part of a photo, at least one pixel wide and high."""
    left, top = int(box.left * picture.width), int(box.top * picture.height)
    right, bottom = round(box.right * picture.width), round(box.bottom * picture.height)
    return picture.crop((left, top, max(left + 1, right), max(top + 1, bottom)))
