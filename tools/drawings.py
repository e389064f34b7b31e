"""Pixel-wise similarity of drawings."""

from __future__ import annotations

import numpy as np
from PIL import Image

DESCRIPTOR = 24  # side length in pixels


def crop_to_ink(sprite: np.ndarray, margin: float = 0.02) -> np.ndarray:
    """Remove the transparent border and pad to a square: [h, w, 4] -> [s, s, 4]."""
    ys, xs = np.nonzero(sprite[..., 3] > 16)
    if len(ys) == 0:
        return sprite
    cut = sprite[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
    side = round(max(cut.shape[:2]) * (1 + 2 * margin))
    square = np.zeros((side, side, 4), np.uint8)
    top, left = (side - cut.shape[0]) // 2, (side - cut.shape[1]) // 2
    square[top : top + cut.shape[0], left : left + cut.shape[1]] = cut
    return square


def descriptor(sprite: np.ndarray, monotone: bool) -> np.ndarray:
    """Return the centred, L2-normalised pixels at 24 x 24: alpha for monochrome art, otherwise RGBA over grey."""
    small = np.asarray(
        Image.fromarray(crop_to_ink(sprite)).resize((DESCRIPTOR, DESCRIPTOR), Image.Resampling.BOX),
        np.float32,
    )
    alpha = small[..., 3:] / 255
    picture = (
        alpha
        if monotone
        else np.concatenate([small[..., :3] / 255 * alpha + 0.5 * (1 - alpha), alpha], axis=-1)
    )
    flat = (picture - picture.mean((0, 1))).ravel()
    return flat / max(float(np.linalg.norm(flat)), 1e-6)


def nearest_is_same(
    queries: np.ndarray, query_labels: np.ndarray, bank: np.ndarray, bank_labels: np.ndarray
) -> float:
    """Return the fraction of queries whose nearest neighbour in `bank` has the same label (rows L2-normalised)."""
    nearest = (queries @ bank.T).argmax(axis=1)
    return float((bank_labels[nearest] == query_labels).mean()) if len(queries) else float("nan")
