"""Composes drawings over procedural backgrounds, with exact object masks.

A scene is a handful of numbers drawn from one generator; rendering is a pure function of scenes, so that an image
depends on its seed alone, never on the batch, the rank or the worker that it is made in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

FAMILIES = ("flat", "gradient", "noise", "stripes", "clutter")
# The smallest mean colour difference (of 1) between a drawing's ink and the background under it.
MIN_CONTRAST = 0.25


@dataclass(frozen=True)
class Background:
    """One background: a family and the number of the instance in it. Equal numbers give equal pixels.

    `colours`, where given, take the place of the two that the number stands for.
    """

    family: str
    instance: int
    colours: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True)
class Scene:
    """One drawing over one background.

    Attributes:
        sprite: index into the sprites handed to `render`.
        scale: side of the drawing's square over the canvas side.
        x, y: centre of the drawing, in canvas sides from the centre (-0.5 ... 0.5).
        angle: rotation in degrees, counter-clockwise.
        background: what stands behind.
        ink: colour in [0, 1] for monotone drawings, else None (the drawing's own colours).
    """

    sprite: int
    scale: float
    x: float
    y: float
    angle: float
    background: Background
    ink: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Rendered:
    """Images and where the object is.

    Attributes:
        images: [B, 3, S, S] in [0, 1].
        alpha: [B, S, S], share of each pixel that the drawing covers.
    """

    images: Tensor
    alpha: Tensor


def draw_placement(
    rng: np.random.Generator, scales: tuple[float, float], angle: float
) -> tuple[float, float, float, float]:
    """Scale, x, y and angle: the drawing's square stays inside the canvas, give or take its rotated corners."""
    scale = float(rng.uniform(*scales))
    room = max(0.0, (1 - scale) / 2)
    return (
        scale,
        float(rng.uniform(-room, room)),
        float(rng.uniform(-room, room)),
        float(rng.uniform(-angle, angle)),
    )


def render(
    scenes: Sequence[Scene], sprites: Tensor, size: int, clutter: Clutter | None = None, oversample: int = 2
) -> Rendered:
    """Draws scenes.

    Args:
        scenes: what to draw.
        sprites: [N, 4, s, s] uint8, straight alpha.
        size: side of the canvas in pixels.
        clutter: small drawings for the clutter family.
        oversample: factor of the grid that drawings are sampled on before averaging down.
    """
    placed = place(scenes, sprites, size, oversample)
    back = torch.stack([background(s.background, size, clutter) for s in scenes]).float() / 255
    back = contrasting(back, placed)
    images = placed[:, :3] + (1 - placed[:, 3:]) * back
    return Rendered(images.clamp(0, 1), placed[:, 3])


def place(scenes: Sequence[Scene], sprites: Tensor, size: int, oversample: int = 2) -> Tensor:
    """Drawings where their scenes put them, over nothing: [B, 4, size, size], colours premultiplied.

    Args: as for `render`.
    """
    fine = size * oversample
    chosen = sprites[torch.tensor([scene.sprite for scene in scenes])].float() / 255
    ink = torch.tensor([scene.ink or (0.0, 0.0, 0.0) for scene in scenes]).view(-1, 3, 1, 1)
    inked = torch.tensor([scene.ink is not None for scene in scenes]).view(-1, 1, 1, 1)
    alpha = chosen[:, 3:]
    colour = torch.where(inked, ink.expand_as(chosen[:, :3]), chosen[:, :3])
    # Premultiplied colours: sampling straight ones would bleed in what hides under full transparency.
    grid = F.affine_grid(_inverse_affine(scenes), [len(scenes), 4, fine, fine], align_corners=False)
    placed = F.grid_sample(torch.cat([colour * alpha, alpha], dim=1), grid, align_corners=False)
    return F.avg_pool2d(placed, oversample) if oversample > 1 else placed


def place_masks(scenes: Sequence[Scene], masks: Tensor, size: int, oversample: int = 2) -> Tensor:
    """Moves masks [N, s, s] in [0, 1] as `render` moves the sprites of the same numbers: [B, size, size]."""
    chosen = masks[torch.tensor([scene.sprite for scene in scenes])].float().unsqueeze(1)
    grid = F.affine_grid(
        _inverse_affine(scenes), [len(scenes), 1, size * oversample, size * oversample], align_corners=False
    )
    return F.avg_pool2d(F.grid_sample(chosen, grid, align_corners=False), oversample)[:, 0]


def _inverse_affine(scenes: Sequence[Scene]) -> Tensor:
    """[B, 2, 3]: canvas coordinates (-1 ... 1) to sprite coordinates, as `affine_grid` wants them."""
    rows = []
    for scene in scenes:
        turn = np.deg2rad(scene.angle)
        cos, sin = np.cos(turn) / scene.scale, np.sin(turn) / scene.scale
        x, y = 2 * scene.x, 2 * scene.y
        rows.append([[cos, -sin, -cos * x + sin * y], [sin, cos, -sin * x - cos * y]])
    return torch.tensor(rows, dtype=torch.float32)


def contrasting(back: Tensor, placed: Tensor) -> Tensor:
    """Backgrounds against which the drawings can be seen: the given one, else its negative, else black or white."""
    weak = (contrast(back, placed) < MIN_CONTRAST).nonzero()[:, 0]
    if len(weak) == 0:
        return back
    given = back[weak]
    options = torch.stack([1 - given, torch.zeros_like(given), torch.ones_like(given)])
    scores = torch.stack([contrast(option, placed[weak]) for option in options])
    enough = scores >= MIN_CONTRAST
    # The first that passes; where none does (a drawing of mid tones), the strongest.
    choice = torch.where(enough.any(0), enough.float().argmax(0), scores.argmax(0))
    back = back.clone()
    back[weak] = options[choice, torch.arange(len(weak))]
    return back


def contrast(back: Tensor, placed: Tensor) -> Tensor:
    """[B]: mean absolute colour difference between premultiplied drawings and backgrounds, under the ink."""
    alpha = placed[:, 3:]
    difference = (placed[:, :3] - alpha * back).abs().mean(1, keepdim=True)
    return difference.sum((1, 2, 3)) / alpha.sum((1, 2, 3)).clamp_min(1e-6)


def background(spec: Background, size: int, clutter: Clutter | None) -> Tensor:
    """[3, size, size] uint8. Raises ValueError for the clutter family without drawings."""
    if spec.family != "clutter":
        return _remembered(spec, size)
    if clutter is None:
        raise ValueError("family 'clutter' needs drawings")
    return clutter.background(spec, size)


def paint(spec: Background, size: int) -> Tensor:
    """[3, size, size] uint8, a background of any family but clutter."""
    rng = np.random.default_rng([FAMILIES.index(spec.family), spec.instance])
    drawn = rng.uniform(0, 1, (2, 3)).astype(np.float32)
    for i, colour in enumerate(spec.colours):
        drawn[i] = colour
    colours = torch.from_numpy(drawn).view(2, 3, 1, 1)
    axis = (torch.arange(size, dtype=torch.float32) + 0.5) / size - 0.5
    turn = rng.uniform(0, 2 * np.pi)
    along = axis[None, :] * float(np.cos(turn)) + axis[:, None] * float(np.sin(turn))
    if spec.family == "flat":
        picture = colours[0].expand(3, size, size)
    elif spec.family == "gradient":
        picture = torch.lerp(colours[0], colours[1], (along + 0.5).clamp(0, 1))
    elif spec.family == "noise":
        cells = int(rng.integers(2, 7))
        coarse = torch.from_numpy(rng.uniform(0, 1, (1, 3, cells, cells)).astype(np.float32))
        picture = F.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=False)[0]
    elif spec.family == "stripes":
        period, across = (
            float(rng.uniform(0.08, 0.3)),
            axis[:, None] * float(np.cos(turn)) - axis[None, :] * float(np.sin(turn)),
        )
        bands = torch.floor(along / period)
        if rng.random() < 0.5:  # checks
            bands = bands + torch.floor(across / period)
        picture = torch.where(bands.remainder(2) == 0, colours[0], colours[1])
    else:
        raise ValueError(f"no family {spec.family!r}")
    return (picture.clamp(0, 1) * 255).round().to(torch.uint8).contiguous()


_remembered = lru_cache(maxsize=8192)(paint)


class Clutter:
    """Small drawings for the clutter family, with the backgrounds made of them so far.

    Args:
        drawings: [K, 4, c, c] uint8, straight alpha.
    """

    KEPT = 48 << 20  # bytes of backgrounds in memory: 4096 of 64 pixels a side

    def __init__(self, drawings: Tensor) -> None:
        self.drawings = drawings
        self._made: dict[tuple[Background, int], Tensor] = {}

    def background(self, spec: Background, size: int) -> Tensor:
        """[3, size, size] uint8."""
        key = (spec, size)
        if key not in self._made:
            if (len(self._made) + 1) * 3 * size * size > self.KEPT:
                self._made.clear()
            self._made[key] = self._compose(spec, size)
        return self._made[key]

    def _compose(self, spec: Background, size: int) -> Tensor:
        rng = np.random.default_rng([FAMILIES.index("clutter"), spec.instance])
        base = paint(Background(("flat", "gradient")[int(rng.integers(2))], spec.instance), size)
        scenes = []
        for _ in range(int(rng.integers(8, 16))):
            scale = float(rng.uniform(0.14, 0.28))
            x, y = rng.uniform(-0.5, 0.5, 2).tolist()
            sprite = int(rng.integers(len(self.drawings)))
            scenes.append(Scene(sprite, scale, x, y, float(rng.uniform(-30, 30)), spec))
        grid = F.affine_grid(_inverse_affine(scenes), [len(scenes), 4, size, size], align_corners=False)
        layers = self.drawings[torch.tensor([s.sprite for s in scenes])].float() / 255
        layers = torch.cat([layers[:, :3] * layers[:, 3:], layers[:, 3:]], dim=1)
        picture = base.float() / 255
        for layer in F.grid_sample(layers, grid, align_corners=False):
            picture = layer[:3] + (1 - layer[3:]) * picture
        return (picture.clamp(0, 1) * 255).round().to(torch.uint8)
