"""Compose drawings over procedural backgrounds, with exact object masks.

A scene is a few numbers drawn from one generator, and rendering is a pure function of scenes. An image therefore
depends on its seed only, not on the batch, process or worker that renders it.
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
# Smallest mean colour difference, of 1, between a drawing's ink and the background under it.
MIN_CONTRAST = 0.25


@dataclass(frozen=True)
class Background:
    """One background; equal values give equal pixels.

    Attributes:
        family: one of `FAMILIES`.
        instance: seed within the family.
        colours: up to two RGB colours in [0, 1] that replace those drawn from the seed.
    """

    family: str
    instance: int
    colours: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True)
class Scene:
    """One drawing over one background.

    Attributes:
        sprite: index into the sprites given to `render`.
        scale: side of the drawing's square, relative to the side of the canvas.
        x, y: centre of the drawing relative to the centre of the canvas, in canvas sides (-0.5 ... 0.5).
        angle: rotation in degrees, counter-clockwise.
        background: drawn first.
        ink: RGB colour in [0, 1] of a monochrome drawing; None: the drawing's own colours.
        others: other drawings on the background, behind this one.
    """

    sprite: int
    scale: float
    x: float
    y: float
    angle: float
    background: Background
    ink: tuple[float, float, float] | None = None
    others: tuple[Other, ...] = ()


@dataclass(frozen=True)
class Other:
    """A clutter drawing behind the named one.

    Attributes:
        drawing: index into the drawings of `Clutter`.
        scale, x, y, angle: as in `Scene`.
    """

    drawing: int
    scale: float
    x: float
    y: float
    angle: float


@dataclass(frozen=True)
class Rendered:
    """Images with object masks.

    Attributes:
        images: [B, 3, S, S] in [0, 1].
        alpha: [B, S, S], share of each pixel that the drawing covers.
    """

    images: Tensor
    alpha: Tensor


def draw_placement(
    rng: np.random.Generator, scales: tuple[float, float], angle: float
) -> tuple[float, float, float, float]:
    """Draw scale, x, y and angle such that the unrotated square lies inside the canvas."""
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
    """Render B scenes.

    Args:
        scenes: B scenes.
        sprites: [N, 4, s, s] uint8, straight (not premultiplied) alpha.
        size: side S of the canvas in pixels.
        clutter: draws the backgrounds of the clutter family and the other drawings.
        oversample: drawings are sampled at this multiple of `size`, then averaged.

    Raises:
        ValueError: a scene needs `clutter`, and none is given.
    """
    placed = place(scenes, sprites, size, oversample)  # [B, 4, S, S]
    backgrounds = [background(scene.background, size, clutter) for scene in scenes]
    back = contrasting(torch.stack(backgrounds).float() / 255, placed)  # [B, 3, S, S]
    for i, scene in enumerate(scenes):
        if scene.others:
            if clutter is None:
                raise ValueError("other drawings need `clutter`")
            back[i] = clutter.over(back[i], scene.others)
    images = placed[:, :3] + (1 - placed[:, 3:]) * back  # [B, 3, S, S]; "over" with premultiplied colours
    return Rendered(images.clamp(0, 1), placed[:, 3])


def place(scenes: Sequence[Scene], sprites: Tensor, size: int, oversample: int = 2) -> Tensor:
    """Return the drawings of scenes without backgrounds: [B, 4, size, size], premultiplied alpha.

    Args:
        scenes, sprites, size, oversample: as in `render`.
    """
    fine = size * oversample
    chosen = sprites[torch.tensor([scene.sprite for scene in scenes])].float() / 255  # [B, 4, s, s]
    ink = torch.tensor([scene.ink or (0.0, 0.0, 0.0) for scene in scenes]).view(-1, 3, 1, 1)  # [B, 3, 1, 1]
    has_ink = torch.tensor([scene.ink is not None for scene in scenes]).view(-1, 1, 1, 1)  # [B, 1, 1, 1]
    alpha = chosen[:, 3:]  # [B, 1, s, s]
    colour = torch.where(has_ink, ink.expand_as(chosen[:, :3]), chosen[:, :3])  # [B, 3, s, s]
    # Premultiply before sampling: otherwise the hidden colours of transparent pixels bleed into the edges.
    grid = F.affine_grid(_inverse_affine(scenes), [len(scenes), 4, fine, fine], align_corners=False)
    premultiplied = torch.cat([colour * alpha, alpha], dim=1)  # [B, 4, s, s]
    placed = F.grid_sample(premultiplied, grid, align_corners=False)  # [B, 4, fine, fine]
    return F.avg_pool2d(placed, oversample) if oversample > 1 else placed  # [B, 4, size, size]


def place_masks(scenes: Sequence[Scene], masks: Tensor, size: int, oversample: int = 2) -> Tensor:
    """Transform masks [N, s, s] in [0, 1] as `place` transforms sprites: [B, size, size]."""
    fine = size * oversample
    chosen = masks[torch.tensor([scene.sprite for scene in scenes])].float().unsqueeze(1)  # [B, 1, s, s]
    grid = F.affine_grid(_inverse_affine(scenes), [len(scenes), 1, fine, fine], align_corners=False)
    return F.avg_pool2d(F.grid_sample(chosen, grid, align_corners=False), oversample)[:, 0]  # [B, size, size]


def _inverse_affine(scenes: Sequence[Scene | Other]) -> Tensor:
    """Return [B, 2, 3] matrices from canvas to sprite coordinates, both in [-1, 1], as `affine_grid` expects."""
    rows = []
    for scene in scenes:
        turn = np.deg2rad(scene.angle)
        cos, sin = np.cos(turn) / scene.scale, np.sin(turn) / scene.scale
        x, y = 2 * scene.x, 2 * scene.y
        rows.append([[cos, -sin, -cos * x + sin * y], [sin, cos, -sin * x - cos * y]])
    return torch.tensor(rows, dtype=torch.float32)


def contrasting(back: Tensor, placed: Tensor) -> Tensor:
    """Replace backgrounds against which the drawing is hardly visible.

    Candidates are the given background, its negative, black and white. The first with a contrast of at least
    `MIN_CONTRAST` is used, or the one with the highest contrast if none reaches it (drawings in mid tones).

    Args:
        back: [B, 3, S, S] in [0, 1].
        placed: [B, 4, S, S], premultiplied drawings.

    Returns:
        [B, 3, S, S].
    """
    weak = (contrast(back, placed) < MIN_CONTRAST).nonzero()[:, 0]  # [W], indices
    if len(weak) == 0:
        return back
    given = back[weak]  # [W, 3, S, S]
    options = torch.stack([1 - given, torch.zeros_like(given), torch.ones_like(given)])  # [3, W, 3, S, S]
    scores = torch.stack([contrast(option, placed[weak]) for option in options])  # [3, W]
    enough = scores >= MIN_CONTRAST
    # argmax of booleans as floats: the first option that is enough
    choice = torch.where(enough.any(0), enough.float().argmax(0), scores.argmax(0))  # [W]
    back = back.clone()
    back[weak] = options[choice, torch.arange(len(weak))]  # [W, 3, S, S]
    return back


def contrast(back: Tensor, placed: Tensor) -> Tensor:
    """Return the mean absolute colour difference between drawings and backgrounds, weighted by coverage.

    Args:
        back: [B, 3, S, S] in [0, 1].
        placed: [B, 4, S, S], premultiplied drawings.

    Returns:
        [B] in [0, 1].
    """
    alpha = placed[:, 3:]  # [B, 1, S, S]
    difference = (placed[:, :3] - alpha * back).abs().mean(1, keepdim=True)  # [B, 1, S, S]
    return difference.sum((1, 2, 3)) / alpha.sum((1, 2, 3)).clamp_min(1e-6)  # [B]


def background(spec: Background, size: int, clutter: Clutter | None) -> Tensor:
    """Return a background of any family, [3, size, size] uint8.

    Raises:
        ValueError: the family is "clutter", and `clutter` is None.
    """
    if spec.family != "clutter":
        return _cached_background(spec, size)
    if clutter is None:
        raise ValueError('the family "clutter" needs drawings')
    return clutter.background(spec, size)


def paint(spec: Background, size: int) -> Tensor:
    """Paint a background of any family but "clutter", [3, size, size] uint8.

    Raises:
        ValueError: unknown family.
    """
    rng = np.random.default_rng([FAMILIES.index(spec.family), spec.instance])
    drawn = rng.uniform(0, 1, (2, 3)).astype(np.float32)  # drawn even if replaced: later draws must not shift
    for i, colour in enumerate(spec.colours):
        drawn[i] = colour
    colours = torch.from_numpy(drawn).view(2, 3, 1, 1)  # [2, 3, 1, 1]
    axis = (torch.arange(size, dtype=torch.float32) + 0.5) / size - 0.5  # [S], pixel centres
    turn = rng.uniform(0, 2 * np.pi)
    # [S, S], coordinate along a random direction
    along = axis[None, :] * float(np.cos(turn)) + axis[:, None] * float(np.sin(turn))
    if spec.family == "flat":
        picture = colours[0].expand(3, size, size)  # [3, S, S]
    elif spec.family == "gradient":
        picture = torch.lerp(colours[0], colours[1], (along + 0.5).clamp(0, 1))  # [3, S, S]
    elif spec.family == "noise":
        cells = int(rng.integers(2, 7))
        coarse = torch.from_numpy(rng.uniform(0, 1, (1, 3, cells, cells)).astype(np.float32))
        smooth = F.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=False)
        picture = smooth[0]  # [3, S, S]
    elif spec.family == "stripes":
        period = float(rng.uniform(0.08, 0.3))
        bands = torch.floor(along / period)  # [S, S]
        if rng.random() < 0.5:  # checks
            across = axis[:, None] * float(np.cos(turn)) - axis[None, :] * float(np.sin(turn))  # [S, S]
            bands = bands + torch.floor(across / period)
        picture = torch.where(bands.remainder(2) == 0, colours[0], colours[1])  # [3, S, S]
    else:
        raise ValueError(f"no family {spec.family!r}")
    return (picture.clamp(0, 1) * 255).round().to(torch.uint8).contiguous()


_cached_background = lru_cache(maxsize=8192)(paint)


class Clutter:
    """Backgrounds of many small drawings, cached.

    Args:
        drawings: [K, 4, c, c] uint8, straight alpha.
    """

    CACHE_BYTES = 48 << 20  # 4096 backgrounds of 64 x 64 pixels

    def __init__(self, drawings: Tensor) -> None:
        self.drawings = drawings
        self._cache: dict[tuple[Background, int], Tensor] = {}

    def background(self, spec: Background, size: int) -> Tensor:
        """Return a background of the family "clutter", [3, size, size] uint8."""
        key = (spec, size)
        if key not in self._cache:
            if (len(self._cache) + 1) * 3 * size * size > self.CACHE_BYTES:
                self._cache.clear()
            self._cache[key] = self._compose(spec, size)
        return self._cache[key]

    def _compose(self, spec: Background, size: int) -> Tensor:
        rng = np.random.default_rng([FAMILIES.index("clutter"), spec.instance])
        base = paint(Background(("flat", "gradient")[int(rng.integers(2))], spec.instance), size)
        small = []
        for _ in range(int(rng.integers(8, 16))):
            scale = float(rng.uniform(0.14, 0.28))
            x, y = rng.uniform(-0.5, 0.5, 2).tolist()
            drawing = int(rng.integers(len(self.drawings)))
            small.append(Other(drawing, scale, x, y, float(rng.uniform(-30, 30))))
        picture = self.over(base.float() / 255, small)  # [3, S, S]
        return (picture.clamp(0, 1) * 255).round().to(torch.uint8)

    def over(self, picture: Tensor, others: Sequence[Other]) -> Tensor:
        """Return a picture [3, S, S] in [0, 1] with drawings over it, the last one in front."""
        size = picture.shape[-1]
        grid = F.affine_grid(_inverse_affine(others), [len(others), 4, size, size], align_corners=False)
        layers = (
            self.drawings[torch.tensor([other.drawing for other in others])].float() / 255
        )  # [K, 4, c, c]
        layers = torch.cat([layers[:, :3] * layers[:, 3:], layers[:, 3:]], dim=1)  # premultiplied
        for layer in F.grid_sample(layers, grid, align_corners=False):  # [4, S, S]
            picture = layer[:3] + (1 - layer[3:]) * picture
        return picture
