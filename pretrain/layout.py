"""Random layouts of scenes: how many drawings, where, how large, in which order."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

SIZE = 96  # pixels
MOSAIC_SHARE = (0.5, 0.2)  # share of mosaics at the start and at the end of the curriculum
SINGLE_SHARE = (0.5, 0.45)
CLUTTER_SHARE = 0.35
GROUPED_BACKGROUNDS = 0.25  # share of backgrounds that depend on the concept, as in photographs from the web
FAMILIES = ("flat", "gradient", "noise")


@dataclass
class Placed:
    """One drawing on the canvas.

    Attributes:
        image: Index of the image in the batch.
        sprite: Row of the atlas.
        scale: Side of the drawing over the side of the canvas.
        x, y: Centre in canvas sides, in [0, 1], y downwards.
        angle: Rotation in radians.
        named: Whether captions may mention it; clutter is never mentioned.
    """

    image: int
    sprite: int
    scale: float
    x: float
    y: float
    angle: float
    named: bool


@dataclass
class Background:
    """One background: family, two colours [2, 3] and the coarse grid of the noise family [3, cells, cells]."""

    family: str
    colours: np.ndarray
    angle: float
    grid: np.ndarray


Position = tuple[float, float, float]  # scale, x, y


def positions(rng: np.random.Generator, level: float) -> list[Position]:
    """Return scales and centres of the named drawings of one scene, back to front."""
    kind = rng.random()
    single = np.interp(level, (0, 1), SINGLE_SHARE)
    mosaic = np.interp(level, (0, 1), MOSAIC_SHARE)
    if kind < single:
        return [inside_canvas(rng, float(rng.uniform(0.8 - 0.42 * level, 1.0)))]
    if kind < single + mosaic:
        return _mosaic(rng)
    return scattered(rng, level)


def inside_canvas(rng: np.random.Generator, scale: float) -> Position:
    room = max(0.0, (1 - scale) / 2)
    return scale, 0.5 + float(rng.uniform(-room, room)), 0.5 + float(rng.uniform(-room, room))


def _mosaic(rng: np.random.Generator) -> list[Position]:
    """A grid of 2 x 2 or 3 x 3 drawings of similar size."""
    cells = 2 if rng.random() < 0.6 else 3
    placed = []
    for k in rng.permutation(cells * cells):
        scale = float(rng.uniform(0.75, 1.0)) / cells
        slack = (1 / cells - scale) / 2
        x, y = ((np.array([k % cells, k // cells]) + 0.5) / cells + rng.uniform(-slack, slack, 2)).tolist()
        placed.append((scale, x, y))
    return placed


def scattered(rng: np.random.Generator, level: float) -> list[Position]:
    """Two to five drawings of very different sizes; smaller ones are in front and overlap little."""
    count = int(rng.integers(2, 6))
    smallest = 0.3 - 0.15 * level
    if rng.random() < 0.5:  # one large drawing, the others small
        scales = [float(rng.uniform(0.5, 0.9)), *rng.uniform(smallest, 0.4, count - 1).tolist()]
    else:
        scales = sorted(rng.uniform(smallest, 0.55, count).tolist(), reverse=True)
    if rng.random() < 0.1 * level:  # down to 8 % of the width
        scales[-1] = float(rng.uniform(0.08, 0.15))
    placed: list[Position] = []
    for scale in scales:
        for _ in range(12):
            candidate = inside_canvas(rng, scale)
            if all(_overlap(candidate, other) < 0.25 for other in placed):
                placed.append(candidate)
                break
        else:
            if scale < 0.35:  # the last candidate covers part of a larger drawing
                placed.append(candidate)
    return placed


def _overlap(a: Position, b: Position) -> float:
    """Return the intersection of two squares over the area of the smaller one."""
    width = min(a[1] + a[0] / 2, b[1] + b[0] / 2) - max(a[1] - a[0] / 2, b[1] - b[0] / 2)
    height = min(a[2] + a[0] / 2, b[2] + b[0] / 2) - max(a[2] - a[0] / 2, b[2] - b[0] / 2)
    return max(0.0, width) * max(0.0, height) / min(a[0], b[0]) ** 2


def clutter(rng: np.random.Generator, level: float) -> list[Position]:
    """Return positions of small unnamed drawings behind the named ones."""
    if rng.random() >= CLUTTER_SHARE * level:
        return []
    return [
        (float(rng.uniform(0.08, 0.22)), float(rng.random()), float(rng.random()))
        for _ in range(int(rng.integers(2, 8)))
    ]


def background(rng: np.random.Generator, key: str, level: float) -> Background:
    """Return a random background: flat ones first, gradients and noise as the curriculum advances."""
    shares = (0.8 - 0.4 * level, 0.1 + 0.2 * level, 0.1 + 0.2 * level)
    if rng.random() < GROUPED_BACKGROUNDS:
        rng = np.random.default_rng([zlib.crc32(key.encode()), int(rng.integers(8))])
        shares = (1 / 3, 1 / 3, 1 / 3)
    family = FAMILIES[int(rng.choice(3, p=shares))]
    cells = int(rng.integers(2, 7))
    return Background(
        family,
        rng.uniform(0, 1, (2, 3)),
        float(rng.uniform(0, 2 * np.pi)),
        rng.uniform(0, 1, (3, cells, cells)),
    )
