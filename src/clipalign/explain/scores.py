"""Scores of maps against exact masks of the object."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor
from torch.nn import functional as F


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Interpolate maps of patches to pixels, bilinearly between patch centres: [B, gh, gw] -> [B, H, W]."""
    return F.interpolate(maps[:, None].float(), size=size, mode="bilinear", align_corners=False)[:, 0]


def min_max(maps: Tensor) -> Tensor:
    """Scale each map [..., H, W] to [0, 1]; a constant map becomes 0.

    >>> min_max(torch.tensor([[1.0, 3.0], [2.0, 5.0]]))
    tensor([[0.0000, 0.5000],
            [0.2500, 1.0000]])
    """
    low = maps.amin(dim=(-2, -1), keepdim=True)  # [..., 1, 1]
    span = maps.amax(dim=(-2, -1), keepdim=True) - low  # [..., 1, 1]
    return torch.where(span > 0, (maps - low) / span.clamp_min(torch.finfo(maps.dtype).tiny), 0.0)


def coverage(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the share of each patch that the object covers: [B, H, W] -> [B, gh, gw]."""
    return F.adaptive_avg_pool2d(masks[:, None].float(), grid)[:, 0]


def correlation(maps: Tensor, masks: Tensor) -> Tensor:
    """Return the Pearson correlation of map and mask over pixels.

    Args:
        maps: [B, H, W].
        masks: [B, H, W] in [0, 1].

    Returns:
        [B] in [-1, 1]; 0 for a constant map, NaN for an empty or full mask.
    """
    a = (maps.double() - maps.double().mean(dim=(1, 2), keepdim=True)).flatten(1)  # [B, H * W]
    b = (masks.double() - masks.double().mean(dim=(1, 2), keepdim=True)).flatten(1)  # [B, H * W]
    scale = a.norm(dim=1) * b.norm(dim=1)  # [B]
    value = torch.where(scale > 0, (a * b).sum(dim=1) / scale.clamp_min(1e-300), 0.0)  # [B]
    return torch.where(b.norm(dim=1) > 0, value, torch.nan).float()


def pointing(maps: Tensor, masks: Tensor) -> Tensor:
    """Return whether the highest pixel lies on the object (pointing game, Zhang et al., IJCV 2018).

    Args:
        maps: [B, H, W].
        masks: [B, H, W] in [0, 1].

    Returns:
        [B] in [0, 1]: 1 or 0, or the share of equally high pixels that lies on the object; NaN without an object.
    """
    values, inside = maps.flatten(1), masks.flatten(1) > 0.5  # [B, H * W] each
    top = values == values.amax(dim=1, keepdim=True)  # [B, H * W]
    hits = (top & inside).sum(dim=1) / top.sum(dim=1)  # [B]
    return torch.where(inside.any(dim=1), hits, torch.nan)


def lift(maps: Tensor, masks: Tensor) -> Tensor:
    """Return the share of the map's mass on the object, divided by the object's share of the area.

    Uniform attention has lift 1; attention only on an object that covers a quarter of the image has lift 4. Mass is
    counted by patch, weighted by the share of the patch that the object covers, so nothing is interpolated.

    Args:
        maps: [B, gh, gw], non-negative, such as attention.
        masks: [B, H, W] in [0, 1].

    Returns:
        [B]; NaN without an object.
    """
    covered = coverage(masks, (maps.shape[1], maps.shape[2]))  # [B, gh, gw]
    area = covered.mean(dim=(1, 2))  # [B]
    on_object = (maps * covered).sum(dim=(1, 2)) / maps.sum(dim=(1, 2)).clamp_min(1e-12)  # [B]
    return torch.where(area > 0, on_object / area.clamp_min(1e-12), torch.nan)


def average_precision(maps: Tensor, masks: Tensor) -> Tensor:
    """Return the average precision of the map as a detector of the object's pixels.

    Args:
        maps: [B, H, W].
        masks: [B, H, W] in [0, 1].

    Returns:
        [B] in [0, 1]; the object's share of the area for a constant map, NaN without an object.
    """
    values = []
    for scores, inside in zip(maps.flatten(1), masks.flatten(1) > 0.5, strict=True):  # [H * W] each
        known = bool(inside.any())
        values.append(float(average_precision_score(inside.numpy(), scores.numpy())) if known else np.nan)
    return torch.tensor(values)


def pixel_maps(maps: Tensor, masks: Tensor) -> Tensor:
    """Interpolate maps [B, gh, gw] to the pixels of masks [B, H, W], rounded to 5 digits: [B, H, W] on the CPU.

    Each map is scaled to integers up to 1e5, which keeps the order of pixels; rounding errors of the interpolation
    would break ties.
    """
    pixels = upsample(maps, (masks.shape[1], masks.shape[2])).cpu()  # [B, H, W]
    largest = pixels.abs().amax(dim=(1, 2), keepdim=True)  # [B, 1, 1]
    return (1e5 * pixels / largest.clamp_min(torch.finfo(torch.float32).tiny)).round()


@dataclass(frozen=True)
class MapScores:
    """Scores of one kind of map, averaged over images.

    Attributes:
        correlation: Pearson correlation, in [-1, 1].
        pointing: share of images whose highest pixel lies on the object.
        average_precision: mean average precision over pixels, in [0, 1].
        lift: mass on the object relative to its share of the area; None for maps with negative values.
        images: number of images with an object.
    """

    correlation: float
    pointing: float
    average_precision: float
    lift: float | None
    images: int


def score(maps: Tensor, masks: Tensor, *, attention: bool) -> MapScores:
    """Score maps of patches against masks of pixels.

    Args:
        maps: [B, gh, gw].
        masks: [B, H, W] in [0, 1].
        attention: whether the maps are non-negative shares of attention, for which lift is defined.
    """
    masks = masks.float().cpu()
    pixels = pixel_maps(maps, masks)
    return MapScores(
        correlation=float(correlation(pixels, masks).nanmean()),
        pointing=float(pointing(pixels, masks).nanmean()),
        average_precision=float(average_precision(pixels, masks).nanmean()),
        lift=float(lift(maps.cpu(), masks).nanmean()) if attention else None,
        images=int((masks.flatten(1) > 0.5).any(dim=1).sum()),
    )
