"""Pictures of maps: a row per image, a block of columns per model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Ink on white, so that a picture reads the same on light and dark pages.
INK, FAINT, RIGHT, WRONG = "#1a1a1a", "#6b6b6b", "#1b7a3d", "#b3261e"
CELL = 1.15  # inches; seven of them fill the width of a README
FONT = "DejaVu Sans"  # comes with matplotlib, so that pictures do not depend on the machine


@dataclass(frozen=True)
class Block:
    """Columns that belong together.

    Attributes:
        title: above them.
        heads: one per column.
    """

    title: str
    heads: tuple[str, ...]


@dataclass(frozen=True)
class Panel:
    """One image's part of a block.

    Attributes:
        image: [H, W, 3] in [0, 1].
        heats: one per column of the block: [H, W] in [0, 1] to draw over the image, or None for it alone.
        caption: below them.
        right: whether the caption is right (green, ticked), wrong (red, crossed), or neither (None).
    """

    image: np.ndarray
    heats: tuple[np.ndarray | None, ...] = (None,)
    caption: str = ""
    right: bool | None = None


def overlay(image: np.ndarray, heat: np.ndarray, strength: float = 0.75) -> np.ndarray:
    """A map over a greyed image: [H, W, 3] in [0, 1].

    Args:
        image: [H, W, 3] in [0, 1].
        heat: [H, W] in [0, 1].
        strength: share of the map's colour.
    """
    grey = image @ np.array([0.299, 0.587, 0.114])
    # Lifted and flattened, or dark images would drown the map.
    ground = (0.25 + 0.75 * grey)[..., None]
    colour = colormaps["inferno"](heat)[..., :3]
    return np.clip((1 - strength) * ground + strength * colour, 0, 1)


def grid_figure(blocks: Sequence[Block], rows: Sequence[Sequence[Panel]], footer: str = "") -> Figure:
    """Lay panels out.

    Args:
        blocks: from left to right.
        rows: one per image, each with one panel per block.
        footer: a line below all.
    """
    gap, space, caption, edge = 0.06, 0.16, 0.22, 0.06  # inches: between cells, between blocks, below cells
    top, bottom = 0.52, 0.28 if footer else edge
    tall = CELL * max(row[0].image.shape[0] / row[0].image.shape[1] for row in rows)
    lefts = [edge]
    for block in blocks:
        lefts.append(lefts[-1] + _block_width(block, gap) + space)
    width = lefts[-1] - space + edge
    height = top + len(rows) * (tall + caption) + bottom
    figure = Figure(figsize=(width, height), dpi=160, facecolor="white")
    FigureCanvasAgg(figure)

    def write(x: float, y: float, text: str, size: float, **style: Any) -> None:
        figure.text(x / width, y / height, text, fontsize=size, family=FONT, **style)

    for left, block in zip(lefts, blocks, strict=False):
        middle = left + _block_width(block, gap) / 2
        write(middle, height - 0.2, block.title, 9, ha="center", color=INK, weight="bold")
        for i, head in enumerate(block.heads):
            write(left + i * (CELL + gap) + CELL / 2, height - 0.4, head, 6.5, ha="center", color=FAINT)

    for r, row in enumerate(rows):
        y = height - top - (r + 1) * tall - r * caption
        for left, block, panel in zip(lefts, blocks, row, strict=False):
            for i, heat in enumerate(panel.heats):
                x = left + i * (CELL + gap)
                axes = figure.add_axes((x / width, y / height, CELL / width, tall / height))
                shown = panel.image if heat is None else overlay(panel.image, heat)
                # Images of other shapes than the tallest keep theirs, at the top of the cell.
                axes.imshow(np.clip(shown, 0, 1), interpolation="lanczos")
                axes.set_anchor("N")
                axes.set_axis_off()
            colour = INK if panel.right is None else (RIGHT if panel.right else WRONG)
            mark = "" if panel.right is None else ("✓ " if panel.right else "✗ ")
            text = mark + shortened(panel.caption, 20 * len(block.heads))
            write(left + _block_width(block, gap) / 2, y - 0.125, text, 6.5, ha="center", color=colour)
    if footer:
        write(edge, 0.09, footer, 6, ha="left", color=FAINT)
    return figure


def _block_width(block: Block, gap: float) -> float:
    return len(block.heads) * (CELL + gap) - gap


def shortened(text: str, longest: int) -> str:
    """A text of at most `longest` characters, with an ellipsis where something is missing."""
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", facecolor=figure.get_facecolor(), metadata={"Software": None})
    return path
