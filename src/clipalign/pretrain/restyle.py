"""Changes how a drawing looks, so that a concept is more than one artist's line: [4, S, S] in, [4, S, S] out."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import binary_fill_holes
from torch import Tensor

INK_NAMES = {
    "black": (0.05, 0.05, 0.05),
    "white": (0.97, 0.97, 0.97),
    "red": (0.86, 0.12, 0.14),
    "green": (0.15, 0.62, 0.22),
    "blue": (0.12, 0.33, 0.82),
    "yellow": (0.97, 0.83, 0.15),
    "orange": (0.95, 0.52, 0.1),
    "purple": (0.5, 0.2, 0.68),
    "pink": (0.95, 0.5, 0.7),
    "brown": (0.48, 0.3, 0.16),
    "gray": (0.5, 0.5, 0.5),
}


def random_ink(rng: np.random.Generator) -> tuple[str | None, np.ndarray]:
    """A colour, and its name where it has one."""
    if rng.random() < 0.5:
        names = list(INK_NAMES)
        name = names[int(rng.integers(len(names)))]
        return name, np.clip(np.array(INK_NAMES[name]) + rng.normal(0, 0.03, 3), 0, 1)
    return None, rng.uniform(0, 1, 3)


def _colour(value: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(value, np.float32)).view(3, 1, 1)


def _fill(alpha: Tensor) -> Tensor:
    """The silhouette: holes filled."""
    return torch.from_numpy(binary_fill_holes(alpha.numpy() > 0.3).astype(np.float32))


def restyle_monotone(sprite: Tensor, rng: np.random.Generator) -> tuple[Tensor, str | None]:
    """Inks black art: one colour, a gradient, or an outline over a coloured body.

    Returns the ink's name, too, where one ink is all there is.
    """
    alpha = sprite[3]
    name, ink = random_ink(rng)
    kind = rng.random()
    if kind < 0.5:
        return torch.cat([_colour(ink).expand(3, *alpha.shape), alpha[None]]), name
    if kind < 0.65:
        _, other = random_ink(rng)
        ramp = torch.linspace(0, 1, alpha.shape[0]).view(1, -1, 1).expand(1, *alpha.shape)
        if rng.random() < 0.5:
            ramp = ramp.transpose(1, 2)
        return torch.cat(
            [
                torch.lerp(
                    _colour(ink).expand(3, *alpha.shape), _colour(other).expand(3, *alpha.shape), ramp
                ),
                alpha[None],
            ]
        ), None
    body = _fill(alpha)
    _, other = random_ink(rng)
    colour = alpha * _colour(ink) + (1 - alpha) * _colour(other)
    return torch.cat([colour, torch.maximum(alpha, body)[None]]), None


def restyle_colour(sprite: Tensor, rng: np.random.Generator) -> tuple[Tensor, str | None]:
    """Jitters colours; now and then turns colour art into a silhouette, a threshold picture or its edges."""
    colour, alpha = sprite[:3], sprite[3]
    kind = rng.random()
    if kind < 0.65:
        gain = _colour(rng.uniform(0.8, 1.2, 3))
        if rng.random() < 0.15:  # channels swapped: another palette, the same drawing
            colour = colour[torch.from_numpy(rng.permutation(3))]
        return torch.cat([(colour * gain).clamp(0, 1), alpha[None]]), None
    name, ink = random_ink(rng)
    luma = (colour * torch.tensor([0.3, 0.59, 0.11]).view(3, 1, 1)).sum(0)
    if kind < 0.72:
        shape = alpha
    elif kind < 0.86:
        inside = luma[alpha > 0.5]
        level = float(inside.quantile(float(rng.uniform(0.3, 0.7)))) if len(inside) else 0.5
        dark = (luma < level).float() if rng.random() < 0.7 else (luma >= level).float()
        shape = alpha * dark
        if shape.sum() < 0.05 * alpha.sum():
            shape = alpha
    else:
        field = torch.stack([luma * alpha + (1 - alpha) * 0.5, alpha])[None]
        dx = F.pad(field[..., 1:] - field[..., :-1], (0, 1)).abs()
        dy = F.pad(field[..., 1:, :] - field[..., :-1, :], (0, 0, 0, 1)).abs()
        edges = F.max_pool2d((dx + dy).amax(1, keepdim=True), 3, stride=1, padding=1)[0, 0]
        shape = (edges * 4).clamp(0, 1)
    return torch.cat([_colour(ink).expand(3, *alpha.shape), shape[None]]), name


def side_by_side(left: Tensor, right: Tensor, rng: np.random.Generator) -> Tensor:
    """Two drawings in one square, next to or above each other."""
    size = left.shape[-1]
    canvas = torch.zeros_like(left)
    small = [F.interpolate(s[None], size=(size // 2, size // 2), mode="area")[0] for s in (left, right)]
    slack = size // 2
    along, across = (0, slack), [int(place) for place in rng.integers(0, slack + 1, 2)]
    tops, lefts = (across, along) if rng.random() < 0.5 else (along, across)
    for picture, top, start in zip(small, tops, lefts, strict=True):
        canvas[:, top : top + slack, start : start + slack] = picture
    return canvas
