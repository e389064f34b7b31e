"""The mosaic score: four images in one, and how much of a text's map lies on the one that it names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..losses import cosine_logits, unit_features

if TYPE_CHECKING:
    from ..backbone import Backbone

CHANCE = 0.25  # of the score


@torch.no_grad()
def text_maps(backbone: Backbone, images: Tensor, texts: Tensor, guide: str = "dv") -> Tensor:
    """Return the softmax over patches of the scaled cosine of guide tokens and texts, AlignCLIP's guide.

    Args:
        backbone: towers.
        images: [B, 3, H, W], normalised for the backbone.
        texts: [B, T, d], L2-normalised, T texts per image.
        guide: attention structure of the second path.

    Returns:
        [B, T, gh, gw] float32 on the CPU; each map sums to 1.
    """
    tokens = backbone.dense(images, guide=guide).guide
    assert tokens is not None
    scale, tokens = float(backbone.logit_scale), unit_features(tokens)  # [B, M, d]
    logits = torch.stack(
        [cosine_logits(of, text, scale) for of, text in zip(tokens, texts, strict=True)]
    )  # [B, M, T]
    return logits.softmax(dim=1).transpose(1, 2).unflatten(-1, backbone.grid).cpu()  # [B, T, gh, gw]


def quadrant_mass(maps: Tensor) -> Tensor:
    """Return the mass of maps on the quadrants: upper left, upper right, lower left, lower right.

    A row or column of cells in the middle of an odd grid counts half for each side.

    Args:
        maps: [..., gh, gw].

    Returns:
        [..., 4].

    Example:
        >>> quadrant_mass(torch.tensor([[0.5, 0.2], [0.3, 0.0]]))
        tensor([0.5000, 0.2000, 0.3000, 0.0000])
    """
    first = [(n / 2 - torch.arange(n, dtype=maps.dtype)).clamp(0, 1) for n in maps.shape[-2:]]  # [gh], [gw]
    rows, columns = (torch.stack([half, 1 - half]) for half in first)  # [2, gh], [2, gw]
    return torch.einsum("...hw,ah,bw->...ab", maps, rows, columns).flatten(-2)  # [..., 4]


def mosaics(images: Tensor) -> Tensor:
    """Shrink four images to half their size and put them into one, row by row: [B, 4, 3, H, W] -> [B, 3, H, W]."""
    height, width = images.shape[-2:]
    size = (-(-height // 2), -(-width // 2))
    small = F.interpolate(
        images.flatten(0, 1), size=size, mode="bilinear", antialias=True
    )  # [4 B, 3, H/2, W/2]
    cells = small.unflatten(0, (-1, 2, 2))  # [B, 2, 2, 3, H/2, W/2]
    whole = cells.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)  # [B, 3, H, W]
    return whole[..., :height, :width]


def groups_of_four(labels: np.ndarray, most: int, seed: int = 0) -> np.ndarray:
    """Draw groups of four images of different classes; each image is used at most once.

    Args:
        labels: [n] classes.
        most: largest number of groups.
        seed: seed of the draw.

    Returns:
        [G, 4] int64, positions in `labels`.
    """
    full: list[list[int]] = []
    started: list[list[int]] = []
    for i in np.random.default_rng(seed).permutation(len(labels)).tolist():
        group = next((g for g in started if labels[i] not in labels[g]), None)
        if group is None:
            started.append(group := [])
        group.append(i)
        if len(group) == 4:
            started = [g for g in started if g is not group]
            full.append(group)
            if len(full) == most:
                break
    return np.array(full, np.int64).reshape(-1, 4)
