"""Figure of the maps of one photo: a row per kind of map and text, a column per model, one colour scale per row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from .figures import FAINT, FONT, INK, overlay, shorten
from .kinds import MapKind
from .photo import Explanation
from .scores import upsample
from .windows import Box

CELL = 1.5  # inches, the longer side of a photo
BAR, TICKS, GAP, EDGE = (
    0.07,
    0.42,
    0.08,
    0.08,
)  # inches: colour bar, its numbers, between cells, around the figure
VALUES, DIFFERENCES = "inferno", "RdBu_r"  # differences diverge from white at 0
FRAME = "#ffd400"
LEAST = 1e-4  # extent of the scale of differences, as a share of that of the maps
ZERO = 1e-11  # smaller values are written as 0; no scale has less extent


def map_figure(
    photo: np.ndarray, texts: Sequence[str], kinds: Sequence[MapKind], explanations: Sequence[Explanation]
) -> Figure:
    """Draw the maps of one photo.

    With two models, a further column holds the second map minus the first.

    Args:
        photo: [H, W, 3] in [0, 1], the part that the maps cover.
        texts: T texts.
        kinds: kinds of maps, from top to bottom; those with texts have a row per text.
        explanations: models from left to right.
    """
    rows = [(kind, k) for kind in kinds for k in range(len(texts) if kind.per_text else 1)]
    differs = len(explanations) == 2
    ratio = photo.shape[0] / photo.shape[1]
    wide, tall = (CELL, CELL * ratio) if ratio <= 1 else (CELL / ratio, CELL)
    wide = max(wide, 0.9)  # inches, so that titles fit
    top, caption, bottom = 0.3, 0.3, 0.28
    bar = GAP / 2 + BAR + TICKS
    lefts = [EDGE + i * (wide + GAP) for i in range(1 + len(explanations))]
    width = lefts[-1] + wide + bar + (GAP + wide + bar if differs else 0) + EDGE
    width = max(width, 4.2)
    height = top + len(rows) * (tall + caption) + bottom
    figure = Figure(figsize=(width, height), dpi=160, facecolor="white")
    FigureCanvasAgg(figure)

    def write(x: float, y: float, text: str, size: float, **style: Any) -> None:
        figure.text(x / width, y / height, text, fontsize=size, family=FONT, parse_math=False, **style)

    def cell(x: float, y: float, pixels: np.ndarray) -> Any:
        axes = figure.add_axes((x / width, y / height, wide / width, tall / height))
        axes.imshow(np.clip(pixels, 0, 1), interpolation="lanczos")
        axes.set_axis_off()
        return axes

    def colour_bar(x: float, y: float, low: float, high: float, colours: str) -> None:
        axes = figure.add_axes(((x + GAP / 2) / width, y / height, BAR / width, tall / height))
        bar = figure.colorbar(ScalarMappable(Normalize(low, high), colours), cax=axes)
        ticks = [low, 0, high] if colours == DIFFERENCES else [low, high]
        bar.set_ticks(ticks, labels=[signed(t) if colours == DIFFERENCES else number(t) for t in ticks])
        axes.tick_params(length=0, labelsize=5.5, labelcolor=FAINT, pad=1.5)
        bar.outline.set_visible(False)

    heads = ["photo", *(each.model.title for each in explanations)]
    for left, head in zip(lefts, heads, strict=True):
        size = 8 * min(1, wide / (0.08 * len(head)))
        write(left + wide / 2, height - 0.2, head, size, ha="center", color=INK, weight="bold")
    extra = lefts[-1] + wide + bar + GAP  # of the difference
    if differs:
        write(extra + wide / 2, height - 0.2, "difference", 8, ha="center", color=INK, weight="bold")

    for r, (kind, k) in enumerate(rows):
        y = height - top - (r + 1) * tall - r * caption
        axes = cell(lefts[0], y, photo)
        frame(axes, photo, explanations[0])
        write(lefts[0], y - 0.11, shorten(kind.label, 60), 6, ha="left", color=INK)
        if kind.per_text:
            write(lefts[0], y - 0.22, f"“{shorten(texts[k], 60)}”", 6, ha="left", color=INK)
        maps = [pixel_map(each.maps[kind.key][k], photo.shape) for each in explanations]
        low, high = scale_of(maps)
        for left, each, values in zip(lefts[1:], explanations, maps, strict=True):
            cell(left, y, overlay(photo, (values - low) / (high - low), colours=VALUES))
            if kind.per_text and wide >= 1.2:
                note = f"cosine of the image {each.cosines[k]:.3f}"
                write(left + wide, y - 0.22, note, 5.5, ha="right", color=FAINT)
        colour_bar(lefts[-1] + wide, y, low, high, VALUES)
        if differs:
            difference = maps[1] - maps[0]
            # Rounding errors of equal maps must not fill the scale.
            most = max(float(np.abs(difference).max()), LEAST * (high - low))
            cell(extra, y, overlay(photo, 0.5 + difference / (2 * most), colours=DIFFERENCES))
            colour_bar(extra + wide, y, -most, most, DIFFERENCES)
    footer = "One colour scale per row."
    footer += f" Difference: {heads[2]} minus {heads[1]}." if differs else ""
    if not explanations[0].centre.is_all and explanations[0].covered.is_all:
        footer += " Frame: what predictions see."
    write(EDGE, 0.09, footer, 5.5, ha="left", color=FAINT)
    return figure


def pixel_map(values: Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """Upsample a map [Gh, Gw] to the pixels of a photo: [H, W]."""
    return upsample(values[None], (shape[0], shape[1]))[0].numpy().astype(np.float64)


def scale_of(maps: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return the lowest and the highest value of maps that share a colour scale; they differ."""
    low, high = min(float(each.min()) for each in maps), max(float(each.max()) for each in maps)
    return (low, high) if high > low else (low, low + ZERO / 2)


def frame(axes: Any, photo: np.ndarray, explanation: Explanation) -> None:
    """Mark what predictions see, if the photo is wider or taller."""
    box: Box = explanation.centre
    if box.is_all or not explanation.covered.is_all:
        return
    height, width = photo.shape[:2]
    corner = (box.left * width - 0.5, box.top * height - 0.5)
    size = ((box.right - box.left) * width, (box.bottom - box.top) * height)
    axes.add_patch(Rectangle(corner, *size, fill=False, edgecolor=FRAME, linewidth=1.2))


def number(value: float) -> str:
    """Return a value with three significant digits.

    >>> number(0.012345), number(0.5), number(-1e-13)
    ('0.0123', '0.5', '0')
    """
    return "0" if abs(value) < ZERO else f"{value:.3g}"


def signed(value: float) -> str:
    """Return a difference with its sign.

    >>> signed(0.25), signed(-0.25), signed(0.0)
    ('+0.25', '-0.25', '0')
    """
    return "0" if abs(value) < ZERO else f"{value:+.3g}"


def colour_table(name: str) -> np.ndarray:
    """Return the colours of a scale, [256, 3] uint8."""
    return (255 * colormaps[name](np.arange(256))[:, :3]).round().astype(np.uint8)
