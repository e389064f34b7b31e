"""Compose scenes from drawings: pure tensor code, the same on CPU and GPU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clipalign.data.builtin.compose import contrasting

from .layout import SIZE, Background, Placed

# Drawings are sampled inside the smallest of these windows (pixels) that holds them.
WINDOWS = (24, 48, SIZE)
# Shrink sprites by area before sampling: (smallest scale, factor).
MIP_LEVELS = ((0.46, 1), (0.23, 2), (0.0, 4))


def render(
    sprites: Tensor, placed: Sequence[Placed], backgrounds: Sequence[Background]
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw a batch of scenes.

    Args:
        sprites: [n, 4, s, s] in [0, 1], straight alpha, one for each placed drawing.
        placed: Drawings, grouped by image, back to front.
        backgrounds: One for each of the B images.

    Returns:
        Images [B, 3, S, S] in [0, 1], visible coverage of each drawing [n, S, S] in [0, 1], and the visible share
        of each drawing's area [n].
    """
    device, batch = sprites.device, len(backgrounds)
    image = np.array([p.image for p in placed])
    depth = _depth(image)
    windows, pixels = _sample(sprites, placed)

    # Front to back: what is in front decides how much of the rest can be seen.
    canvas = torch.zeros(batch, SIZE, SIZE, 3, device=device)  # premultiplied
    clear = torch.ones(batch, SIZE, SIZE, 1, device=device)
    visible = torch.zeros(len(placed), SIZE, SIZE, device=device)
    share = torch.zeros(len(placed), device=device)
    for level in range(int(depth.max()) + 1):
        for size, (rows, tops, lefts) in windows.items():
            at = np.flatnonzero(depth[rows] == level)
            if not len(at):
                continue
            which = torch.from_numpy(rows[at]).to(device)
            b = torch.from_numpy(image[rows[at]]).to(device)[:, None, None]
            span = torch.arange(size, device=device)
            y = (torch.from_numpy(tops[at]).to(device)[:, None] + span)[:, :, None]  # [k, w, 1]
            x = (torch.from_numpy(lefts[at]).to(device)[:, None] + span)[:, None, :]  # [k, 1, w]
            drawn = pixels[size][torch.from_numpy(at).to(device)].permute(0, 2, 3, 1)  # [k, w, w, 4]
            free = clear[b, y, x]  # [k, w, w, 1]
            seen = free * drawn
            canvas[b, y, x] += seen[..., :3]
            clear[b, y, x] = free * (1 - drawn[..., 3:])
            visible[which[:, None, None], y, x] = seen[..., 3]
            share[which] = seen[..., 3].sum((1, 2)) / drawn[..., 3].sum((1, 2)).clamp_min(1e-6)

    premultiplied = torch.cat([canvas, 1 - clear], dim=-1).permute(0, 3, 1, 2)  # [B, 4, S, S]
    back = contrasting(paint(backgrounds, device), premultiplied)
    images = premultiplied[:, :3] + (1 - premultiplied[:, 3:]) * back
    return images.clamp(0, 1), visible, share


def _depth(image: np.ndarray) -> np.ndarray:
    """Return how many drawings of the same image are in front of each one."""
    counts = np.bincount(image)
    ends = np.cumsum(counts)
    return ends[image] - 1 - np.arange(len(image))


def _sample(
    sprites: Tensor, placed: Sequence[Placed]
) -> tuple[dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]], dict[int, Tensor]]:
    """Rotate and scale each sprite inside a window.

    Returns:
        Window size to (rows, tops, lefts), and window size to premultiplied pixels [k, 4, w, w].
    """
    scale = np.array([p.scale for p in placed])
    angle = np.array([p.angle for p in placed])
    centre = np.array([(p.x, p.y) for p in placed]) * SIZE
    extent = scale * SIZE * (np.abs(np.cos(angle)) + np.abs(np.sin(angle))) + 2
    size = np.array(WINDOWS)[np.minimum(np.searchsorted(WINDOWS, extent), len(WINDOWS) - 1)]
    offset = np.clip(np.floor(centre - size[:, None] / 2), 0, SIZE - size[:, None]).astype(
        np.int64
    )  # left, top

    # Inverse affine maps from window coordinates in [-1, 1] to sprite coordinates in [-1, 1].
    shift = (offset + size[:, None] / 2 - centre) / (scale[:, None] * SIZE / 2)
    grow = size / (scale * SIZE)
    cos, sin = np.cos(angle), np.sin(angle)
    theta = np.stack(
        [
            np.stack([cos * grow, -sin * grow, cos * shift[:, 0] - sin * shift[:, 1]], 1),
            np.stack([sin * grow, cos * grow, sin * shift[:, 0] + cos * shift[:, 1]], 1),
        ],
        1,
    ).astype(np.float32)  # [n, 2, 3]
    premultiplied = torch.cat([sprites[:, :3] * sprites[:, 3:], sprites[:, 3:]], dim=1)  # [n, 4, s, s]

    windows, pixels = {}, {}
    for window in WINDOWS:
        rows = np.flatnonzero(size == window)
        if not len(rows):
            continue
        drawn = torch.zeros(len(rows), 4, window, window, device=sprites.device)
        above = np.inf
        for low, factor in MIP_LEVELS:
            part = np.flatnonzero((scale[rows] >= low) & (scale[rows] < above))
            above = low
            if not len(part):
                continue
            source = premultiplied[torch.from_numpy(rows[part]).to(sprites.device)]
            if factor > 1:
                source = F.avg_pool2d(source, factor)
            grid = F.affine_grid(
                torch.from_numpy(theta[rows[part]]).to(sprites.device),
                [len(part), 4, window, window],
                align_corners=False,
            )
            drawn[torch.from_numpy(part).to(sprites.device)] = F.grid_sample(
                source, grid, align_corners=False
            )
        windows[window] = (rows, offset[rows, 1], offset[rows, 0])
        pixels[window] = drawn
    return windows, pixels


def paint(backgrounds: Sequence[Background], device: torch.device) -> Tensor:
    """Return backgrounds as [B, 3, S, S] in [0, 1]."""
    colours = torch.tensor(np.stack([b.colours for b in backgrounds]), dtype=torch.float32, device=device)
    first, second = colours[:, 0, :, None, None], colours[:, 1, :, None, None]  # [B, 3, 1, 1]
    angle = torch.tensor([b.angle for b in backgrounds], device=device).view(-1, 1, 1, 1)
    axis = (torch.arange(SIZE, device=device) + 0.5) / SIZE - 0.5
    along = axis[None, :] * angle.cos() + axis[:, None] * angle.sin()  # [B, 1, S, S]
    ramp = torch.tensor([b.family == "gradient" for b in backgrounds], device=device).view(-1, 1, 1, 1)
    painted = torch.lerp(first, second, torch.where(ramp, (along + 0.5).clamp(0, 1), torch.zeros_like(along)))
    by_cells: dict[int, list[int]] = {}
    for i, b in enumerate(backgrounds):
        if b.family == "noise":
            by_cells.setdefault(b.grid.shape[-1], []).append(i)
    for rows in by_cells.values():
        coarse = torch.tensor(
            np.stack([backgrounds[i].grid for i in rows]), dtype=torch.float32, device=device
        )
        fine = F.interpolate(coarse, size=(SIZE, SIZE), mode="bicubic", align_corners=False)
        painted[torch.tensor(rows, device=device)] = fine.clamp(0, 1)
    return painted
