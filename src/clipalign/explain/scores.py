"""How well a map finds an object whose exact mask is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor
from torch.nn import functional as F


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps of patches [B, gh, gw] -> maps of pixels [B, H, W], bilinear between patch centres."""
    return F.interpolate(maps[:, None].float(), size=size, mode="bilinear", align_corners=False)[:, 0]


def min_max(maps: Tensor) -> Tensor:
    """Each map [..., H, W] shifted and scaled to [0, 1]; a constant map becomes 0."""
    low = maps.amin(dim=(-2, -1), keepdim=True)
    span = maps.amax(dim=(-2, -1), keepdim=True) - low
    return torch.where(span > 0, (maps - low) / span.clamp_min(torch.finfo(maps.dtype).tiny), 0.0)


def coverage(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Masks of pixels [B, H, W] -> the share of each patch that the object covers, [B, gh, gw]."""
    return F.adaptive_avg_pool2d(masks[:, None].float(), grid)[:, 0]


def correlation(maps: Tensor, masks: Tensor) -> Tensor:
    """Pearson correlation of map and mask over pixels, in [-1, 1].

    Args:
        maps, masks: [B, H, W].

    Returns:
        [B]; 0 for a constant map, NaN where the mask is empty or full.
    """
    a = (maps.double() - maps.double().mean(dim=(1, 2), keepdim=True)).flatten(1)
    b = (masks.double() - masks.double().mean(dim=(1, 2), keepdim=True)).flatten(1)
    scale = a.norm(dim=1) * b.norm(dim=1)
    value = torch.where(scale > 0, (a * b).sum(dim=1) / scale.clamp_min(1e-300), 0.0)
    return torch.where(b.norm(dim=1) > 0, value, torch.nan).float()


def pointing(maps: Tensor, masks: Tensor) -> Tensor:
    """Pointing game: does the highest pixel lie on the object?

    Returns:
        [B] in [0, 1]: 1 or 0, or among equally high pixels the share that lies on it; NaN without an object.
    """
    flat, inside = maps.flatten(1), masks.flatten(1) > 0.5
    top = flat == flat.amax(dim=1, keepdim=True)
    hits = (top & inside).sum(dim=1) / top.sum(dim=1)
    return torch.where(inside.any(dim=1), hits, torch.nan)


def lift(maps: Tensor, masks: Tensor) -> Tensor:
    """Share of the map's mass on the object, relative to the object's share of the area.

    Uniform attention has 1; all attention on an object of a quarter of the area has 4. Counted on patches,
    each by the part of it that the object covers, so that no interpolation enters.

    Args:
        maps: [B, gh, gw], not negative, such as attention.
        masks: [B, H, W].

    Returns:
        [B]; NaN without an object.
    """
    covered = coverage(masks, (maps.shape[1], maps.shape[2]))
    area = covered.mean(dim=(1, 2))
    on_object = (maps * covered).sum(dim=(1, 2)) / maps.sum(dim=(1, 2)).clamp_min(1e-12)
    return torch.where(area > 0, on_object / area.clamp_min(1e-12), torch.nan)


def average_precision(maps: Tensor, masks: Tensor) -> Tensor:
    """Area under precision over recall of the pixels, ranked by the map, as detectors of the object.

    Returns:
        [B] in [0, 1]; a map that knows nothing has the object's share of the area. NaN without an object.
    """
    values = []
    for pixels, inside in zip(maps.flatten(1), masks.flatten(1) > 0.5, strict=True):
        found = bool(inside.any())
        values.append(float(average_precision_score(inside.numpy(), pixels.numpy())) if found else np.nan)
    return torch.tensor(values)


@dataclass(frozen=True)
class MapScores:
    """Means over images of one kind of map against exact masks.

    Attributes:
        correlation: Pearson, in [-1, 1].
        pointing: share of images whose highest pixel lies on the object.
        average_precision: mean average precision of pixels, in [0, 1].
        lift: mass on the object over its share of the area; None for maps with negative values.
        images: how many had an object.
    """

    correlation: float
    pointing: float
    average_precision: float
    lift: float | None
    images: int


def score(maps: Tensor, masks: Tensor, *, attention: bool) -> MapScores:
    """Score maps of patches [B, gh, gw] against masks of pixels [B, H, W].

    Args:
        attention: whether the maps are shares of attention, for which the lift is defined.
    """
    pixels = upsample(maps, (masks.shape[1], masks.shape[2])).cpu()
    # To 5 digits, or rounding errors of the interpolation would put equal pixels in an order.
    largest = pixels.abs().amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    pixels = (1e5 * pixels / largest).round()
    masks = masks.float().cpu()
    return MapScores(
        correlation=float(correlation(pixels, masks).nanmean()),
        pointing=float(pointing(pixels, masks).nanmean()),
        average_precision=float(average_precision(pixels, masks).nanmean()),
        lift=float(lift(maps.cpu(), masks).nanmean()) if attention else None,
        images=int((masks.flatten(1) > 0.5).any(dim=1).sum()),
    )
