"""Masks of texts: active dimensions, overlaps, table and figure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Column
from rich.table import Table as RichTable
from torch import Tensor

from ..core.checkpoint import write_text
from ..evaluation.disentanglement import active_dimensions, overlap
from ..evaluation.masks import masks_of
from ..methods import Method
from .figures import FAINT, FONT, INK, save, shorten

MAX_NUMBERED = 12  # texts; with more, overlaps are not printed as numbers
DOTS = 2  # pixels per dimension of the strip
ROW, DPI = 0.3, 160  # inches per text; dots per inch


@dataclass(frozen=True)
class MaskView:
    """Masks of T different texts.

    Attributes:
        method: name of the method.
        texts: T texts.
        tokens: number of tokens of each text, before truncation.
        window: context length of the text tower.
        masks: [T, D] in [0, 1].
        overlaps: [T, T] Jaccard overlaps.
    """

    method: str
    texts: tuple[str, ...]
    tokens: tuple[int, ...]
    window: int
    masks: Tensor
    overlaps: Tensor

    @property
    def widths(self) -> list[int]:
        """Number of active dimensions of each text."""
        return (self.masks >= 0.5).sum(dim=1).tolist()  # [T]


def view_masks(method: Method, texts: Sequence[str]) -> MaskView:
    """Compute the masks of texts; duplicates are dropped.

    Raises:
        UserError: the method has no masks.
    """
    texts = tuple(dict.fromkeys(texts))
    masks = masks_of(method, texts)
    tokens = method.backbone.tokenize(texts)
    return MaskView(method.name, texts, tokens.lengths, tokens.ids.shape[1], masks, overlap(masks, masks))


def write_masks(view: MaskView, out: Path) -> list[Path]:
    """Write masks.png and masks.json to an existing folder; returns the files."""
    files = [save(mask_figure(view), out / "masks.png"), out / "masks.json"]
    active = active_dimensions(view.masks)
    facts = {
        "method": view.method,
        "dimensions": active.dimensions,
        "window": view.window,
        "texts": [
            {
                "text": text,
                "tokens": tokens,
                "tokens_cut": max(0, tokens - view.window),
                "active": width,
                "size": float(mask.sum()),
                "active_dimensions": np.flatnonzero(mask.numpy() >= 0.5).tolist(),
            }
            for text, tokens, width, mask in zip(
                view.texts, view.tokens, view.widths, view.masks, strict=True
            )
        ],
        "active_mean": active.mean,
        "active_min": active.minimum,
        "active_max": active.maximum,
        "jaccard_overlap": view.overlaps.tolist(),
    }
    write_text(files[1], json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    return files


def mask_table(view: MaskView) -> RichTable:
    """Return a table with a line per text: tokens, active dimensions and, for few texts, overlaps."""
    numbered = len(view.texts) <= MAX_NUMBERED
    columns = [str(i + 1) for i in range(len(view.texts))] if numbered else []
    table = RichTable("", Column("text", overflow="fold"), "tokens", "active", *columns)
    for i, (text, tokens, width) in enumerate(zip(view.texts, view.tokens, view.widths, strict=True)):
        cut = f" ({tokens - view.window} cut)" if tokens > view.window else ""
        overlaps = [f"{value:.2f}" for value in view.overlaps[i].tolist()] if numbered else []
        table.add_row(str(i + 1), text, f"{tokens}{cut}", f"{width} of {view.masks.shape[1]}", *overlaps)
    return table


def print_masks(view: MaskView, given: int) -> None:
    """Print the table, and the number of duplicates among the `given` texts."""
    console = Console()
    if not console.is_terminal:  # files and pipes need no wrapping
        console.width = 60 + max(map(len, view.texts)) + 8 * min(len(view.texts), MAX_NUMBERED)
    console.print(mask_table(view))
    if given > len(view.texts):
        print(f"--masks: {given - len(view.texts)} duplicate texts were dropped")


def mask_figure(view: MaskView) -> Figure:
    """Draw the matrix of overlaps and, to its right, a strip per text with a mark for each active dimension."""
    count, dimensions = view.masks.shape
    names, side, gap, edge = 2.4, ROW * count, 0.45, 0.1
    strip = max(3.0, DOTS * dimensions / DPI)
    width, height = names + side + gap + strip + edge, side + 1.05
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)

    def axes(left: float, wide: float, title: str) -> Axes:
        box = figure.add_axes((left / width, 0.5 / height, wide / width, side / height))
        at = ((left + wide / 2) / width, 1 - 0.25 / height)
        figure.text(*at, title, ha="center", fontsize=8, family=FONT, color=INK, weight="bold")
        box.tick_params(length=0, labelsize=6.5, labelcolor=FAINT)
        for spine in box.spines.values():
            spine.set_color(FAINT)
            spine.set_linewidth(0.5)
        return box

    matrix = axes(names, side, "overlap" if count > 1 else "")
    matrix.imshow(view.overlaps.numpy(), vmin=0, vmax=1, cmap="Blues")
    numbers = [str(i + 1) for i in range(count)]
    matrix.set_xticks(range(count), numbers, family=FONT)
    labels = [f"{shorten(text, 34)}  {n}" for text, n in zip(view.texts, numbers, strict=True)]
    matrix.set_yticks(range(count), labels, family=FONT)
    for label in matrix.get_yticklabels():
        label.set_parse_math(False)  # two dollar signs in a text would start a formula
    if count <= MAX_NUMBERED:
        for i in range(count):
            for j in range(count):
                value = float(view.overlaps[i, j])
                colour = "white" if value > 0.6 else INK
                matrix.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=5, color=colour)
    marks = axes(names + side + gap, strip, f"active dimensions of {dimensions}")
    marks.imshow(view.masks.numpy(), vmin=0, vmax=1, cmap="Greys", aspect="auto", interpolation="nearest")
    marks.set_yticks(range(count), [str(width) for width in view.widths], family=FONT)
    figure.text(
        edge / width,
        0.12 / height,
        "Overlap: Jaccard index of the masks of two texts. Left of each strip: number of active dimensions.",
        fontsize=6,
        family=FONT,
        color=FAINT,
    )
    return figure
