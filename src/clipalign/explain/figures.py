"""Figures of maps: a row per image, a block of columns per model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Dark text on white, which is readable on light and dark pages.
INK, FAINT, RIGHT, WRONG = "#1a1a1a", "#6b6b6b", "#1b7a3d", "#b3261e"
CELL = 1.15  # inches; seven cells fill the width of a README
FONT = "DejaVu Sans"  # ships with matplotlib, so figures do not depend on the machine


@dataclass(frozen=True)
class Block:
    """Columns of one model.

    Attributes:
        title: title above the columns.
        heads: one head per column.
    """

    title: str
    heads: tuple[str, ...]


@dataclass(frozen=True)
class Panel:
    """Cells of one image in one block.

    Attributes:
        image: [H, W, 3] in [0, 1].
        heats: one heat map per column of the block: [H, W] in [0, 1], or None to draw only the image.
        caption: text below the cells.
        right: True for a correct answer (green, ticked), False for a wrong one (red, crossed), None for other text.
    """

    image: np.ndarray
    heats: tuple[np.ndarray | None, ...] = (None,)
    caption: str = ""
    right: bool | None = None


def overlay(
    image: np.ndarray, heat: np.ndarray, strength: float = 0.75, colours: str = "inferno"
) -> np.ndarray:
    """Draw a heat map over a grey image.

    Args:
        image: [H, W, 3] in [0, 1].
        heat: [H, W] in [0, 1].
        strength: opacity of the heat map.
        colours: colour map of matplotlib.

    Returns:
        [H, W, 3] in [0, 1].
    """
    grey = image @ np.array([0.299, 0.587, 0.114])  # [H, W]
    ground = (0.25 + 0.75 * grey)[..., None]  # [H, W, 1]; brighter, so that dark images do not hide the map
    colour = colormaps[colours](heat)[..., :3]  # [H, W, 3]
    return np.clip((1 - strength) * ground + strength * colour, 0, 1)


def grid_figure(blocks: Sequence[Block], rows: Sequence[Sequence[Panel]], footer: str = "") -> Figure:
    """Arrange panels in a grid.

    Args:
        blocks: blocks from left to right.
        rows: one row per image, with one panel per block.
        footer: text below the grid.
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
        # Long titles, such as those of variants of a method, shrink to the width of their block.
        size = 9 * min(1, _block_width(block, gap) / (0.085 * max(1, len(block.title))))
        write(middle, height - 0.2, block.title, size, ha="center", color=INK, weight="bold")
        for i, head in enumerate(block.heads):
            write(left + i * (CELL + gap) + CELL / 2, height - 0.4, head, 6.5, ha="center", color=FAINT)

    for r, row in enumerate(rows):
        y = height - top - (r + 1) * tall - r * caption
        for left, block, panel in zip(lefts, blocks, row, strict=False):
            for i, heat in enumerate(panel.heats):
                x = left + i * (CELL + gap)
                axes = figure.add_axes((x / width, y / height, CELL / width, tall / height))
                pixels = panel.image if heat is None else overlay(panel.image, heat)
                # Cells fit the tallest image; others keep their aspect ratio, at the top of the cell.
                axes.imshow(np.clip(pixels, 0, 1), interpolation="lanczos")
                axes.set_anchor("N")
                axes.set_axis_off()
            colour = INK if panel.right is None else (RIGHT if panel.right else WRONG)
            mark = "" if panel.right is None else ("✓ " if panel.right else "✗ ")
            text = mark + shorten(panel.caption, 20 * len(block.heads))
            write(left + _block_width(block, gap) / 2, y - 0.125, text, 6.5, ha="center", color=colour)
    if footer:
        write(edge, 0.09, footer, 6, ha="left", color=FAINT)
    return figure


def _block_width(block: Block, gap: float) -> float:
    return len(block.heads) * (CELL + gap) - gap


def shorten(text: str, longest: int) -> str:
    """Cut a text to at most `longest` characters, ellipsis included.

    >>> shorten("a red apple", 6)
    'a red…'
    """
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", facecolor=figure.get_facecolor(), metadata={"Software": None})
    return path
