"""Change how drawings look, so that a concept is more than one artist's line. Batched tensor code, any device."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

INKS = {
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
NAMES = tuple(INKS)
_PALETTE = np.array(list(INKS.values()))
_LUMA = (0.3, 0.59, 0.11)


def restyle(
    sprites: Tensor, bodies: Tensor, colour: np.ndarray, rng: np.random.Generator
) -> tuple[Tensor, list[str | None]]:
    """Draw each sprite in a random style.

    Monotone art gets one ink, a gradient, or an outline over a coloured body; colour art gets jittered or permuted
    channels, or becomes a silhouette, a threshold picture or an edge drawing.

    Args:
        sprites: [n, 4, s, s] in [0, 1], straight alpha.
        bodies: [n, 1, s, s], filled silhouettes.
        colour: [n] bool, whether a sprite has its own colours.
        rng: Source of all randomness.

    Returns:
        [n, 4, s, s] straight alpha, and for each the name of its ink if one named ink is all there is.
    """
    n, device = len(sprites), sprites.device
    ink_index = np.where(rng.random(n) < 0.5, rng.integers(len(NAMES), size=n), -1)
    inks = np.where(
        ink_index[:, None] >= 0,
        np.clip(_PALETTE[ink_index] + rng.normal(0, 0.03, (n, 3)), 0, 1),
        rng.uniform(0, 1, (n, 3)),
    )
    kind = rng.random(n)
    first = _channels(inks, device)  # [n, 3, 1, 1]
    second = _channels(rng.uniform(0, 1, (n, 3)), device)
    rgb, alpha = sprites[:, :3], sprites[:, 3:]

    colours = first.expand_as(rgb).clone()
    shapes = alpha.clone()

    gradient = _rows(~colour & (kind >= 0.5) & (kind < 0.65), device)
    if len(gradient):
        size = rgb.shape[-1]
        ramp = torch.linspace(0, 1, size, device=device).view(1, 1, size, 1)
        colours[gradient] = torch.lerp(first[gradient], second[gradient], ramp.expand(-1, -1, -1, size))
    outline = _rows(~colour & (kind >= 0.65), device)
    if len(outline):
        colours[outline] = alpha[outline] * first[outline] + (1 - alpha[outline]) * second[outline]
        shapes[outline] = torch.maximum(alpha[outline], bodies[outline])

    jitter = _rows(colour & (kind < 0.65), device)
    if len(jitter):
        order = np.stack(
            [rng.permutation(3) if rng.random() < 0.15 else np.arange(3) for _ in range(len(jitter))]
        )
        index = torch.from_numpy(order).to(device)[:, :, None, None].expand(-1, -1, *rgb.shape[-2:])
        gain = _channels(rng.uniform(0.8, 1.2, (len(jitter), 3)), device)
        colours[jitter] = (rgb[jitter].gather(1, index) * gain).clamp(0, 1)
    luma = (rgb * torch.tensor(_LUMA, device=device).view(1, 3, 1, 1)).sum(1, keepdim=True)  # [n, 1, s, s]
    threshold = _rows(colour & (kind >= 0.72) & (kind < 0.86), device)
    if len(threshold):
        shapes[threshold] = _threshold(luma[threshold], alpha[threshold], rng)
    edges = _rows(colour & (kind >= 0.86), device)
    if len(edges):
        shapes[edges] = _edges(luma[edges], alpha[edges])

    one_ink = np.where(colour, kind >= 0.65, kind < 0.5) & (ink_index >= 0)
    names = [NAMES[i] if named else None for i, named in zip(ink_index, one_ink, strict=True)]
    return torch.cat([colours, shapes], dim=1), names


def _channels(values: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(values.astype(np.float32)).to(device)[:, :, None, None]


def _rows(mask: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.flatnonzero(mask)).to(device)


def _threshold(luma: Tensor, alpha: Tensor, rng: np.random.Generator) -> Tensor:
    """Keep the darker or the lighter part of each drawing; the whole shape if almost nothing would remain."""
    n = len(luma)
    mean = (luma * alpha).sum((2, 3), keepdim=True) / alpha.sum((2, 3), keepdim=True).clamp_min(1e-6)
    spread = ((luma - mean).square() * alpha).sum((2, 3), keepdim=True)
    spread = (spread / alpha.sum((2, 3), keepdim=True).clamp_min(1e-6)).sqrt()
    level = mean + spread * torch.from_numpy(rng.uniform(-0.5, 0.5, (n, 1, 1, 1)).astype(np.float32)).to(
        luma.device
    )
    dark = torch.from_numpy(rng.random((n, 1, 1, 1)) < 0.7).to(luma.device)
    kept = alpha * ((luma < level) == dark).float()
    enough = kept.sum((1, 2, 3), keepdim=True) >= 0.05 * alpha.sum((1, 2, 3), keepdim=True)
    return torch.where(enough, kept, alpha)


def _edges(luma: Tensor, alpha: Tensor) -> Tensor:
    fields = torch.cat([luma * alpha + (1 - alpha) * 0.5, alpha], dim=1)  # [n, 2, s, s]
    dx = F.pad(fields[..., 1:] - fields[..., :-1], (0, 1)).abs()
    dy = F.pad(fields[..., 1:, :] - fields[..., :-1, :], (0, 0, 0, 1)).abs()
    edges = F.max_pool2d((dx + dy).amax(1, keepdim=True), 3, stride=1, padding=1)
    return (edges * 4).clamp(0, 1)
