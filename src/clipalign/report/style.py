"""Style of all plots of a report: one colour, line and marker per table line, and plain axes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from .rows import ReportRow, by_task, label_rows, method_of, order_labels

# Okabe and Ito's colours, distinguishable with any colour vision on white. Grey is kept for zero-shot.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
ZEROSHOT_COLOUR = "#5b5b5b"
INK, FAINT = "#1a1a1a", "#d9d9d9"
# Further lines reuse the colours with another line, marker and hatch.
VARIANTS = (("-", "o", ""), ("--", "s", "///"), ("-.", "^", "..."), (":", "D", "xxx"))


@dataclass(frozen=True)
class LineStyle:
    """Look of a table line in every plot; values as in matplotlib."""

    colour: str
    line: str
    marker: str
    hatch: str


def line_styles(labels: Iterable[str]) -> dict[str, LineStyle]:
    """Assign a style to each label. Zero-shot lines are grey."""
    styles: dict[str, LineStyle] = {}
    numbers = {True: 0, False: 0}
    for label in order_labels(labels):
        zeroshot = method_of(label) == "zeroshot"
        palette = (ZEROSHOT_COLOUR,) if zeroshot else COLOURS
        cycle, position = divmod(numbers[zeroshot], len(palette))
        styles[label] = LineStyle(palette[position], *VARIANTS[cycle % len(VARIANTS)])
        numbers[zeroshot] += 1
    return styles


def report_styles(rows: Iterable[ReportRow]) -> dict[str, LineStyle]:
    """Assign a style to each table line of a report, so that a method looks the same in all plots."""
    return line_styles(label for group in by_task(rows).values() for label, _ in label_rows(group))


def new_figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """Return a white figure of one row of axes, in inches."""
    figure = Figure(figsize=(width, height), dpi=160, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(1, columns, i + 1) for i in range(columns)]
    for one in axes:
        one.tick_params(labelsize=8, colors=INK, length=2)
        one.grid(color=FAINT, linewidth=0.6)
        one.set_axisbelow(True)
        for side in ("top", "right"):
            one.spines[side].set_visible(False)
    return figure, axes


def percent_ticks(axis: Axis) -> None:
    """Place ticks of a percentage at round values, never at 9.45 or 65.25."""
    axis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))


def legend_above(axes: Axes) -> None:
    """Draw the legend above the axes, where it covers no data."""
    axes.legend(fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=6)


def matrix_axes(
    axes: Axes,
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    colours: str,
    limits: tuple[float, float] | None = None,
) -> AxesImage:
    """Draw a matrix with names beside its rows and below its columns; NaN is grey.

    Args:
        axes: where to draw.
        values: [rows, columns].
        rows, columns: names; none are written if empty.
        colours: name of a colour map.
        limits: values of the first and the last colour; None for the range of the values.
    """
    axes.grid(visible=False)
    axes.set_facecolor(FAINT)
    low, high = limits or (None, None)
    picture = axes.imshow(values, cmap=colours, vmin=low, vmax=high, interpolation="nearest", aspect="equal")
    axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=6)
    axes.set_yticks(range(len(rows)), rows, fontsize=6)
    for side in axes.spines.values():
        side.set_visible(False)
    return picture
