"""Accuracy over an option, or by variant: means over seeds, with the range of the seeds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .style import INK, LineStyle, legend_above, line_styles, new_figure, percent_ticks

MIN_SPAN = 2.0  # points of accuracy on the y axis, at least


@dataclass(frozen=True)
class Series:
    """Accuracies of the lines of a study under one task.

    Attributes:
        name: task; name of the series.
        values: line -> accuracy of each seed, in percent.
    """

    name: str
    values: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Panel:
    """One plot: published or measured series."""

    title: str
    series: tuple[Series, ...]


def number_of(line: str) -> float:
    """Return the number at the end of the name of a line.

    >>> number_of("layers-4"), number_of("confidence-0.9")
    (4.0, 0.9)
    """
    found = re.search(r"-(\d+(?:\.\d+)?)$", line)
    if found is None:
        raise ValueError(f'the line "{line}" does not end with a number')
    return float(found[1])


def option_figure(panels: Sequence[Panel], x: str | None, y: str = "accuracy (%)") -> Figure:
    """Draw panels side by side, each with its own y axis: accuracies of other data and models are not comparable.

    Args:
        panels: panels from left to right, such as published and measured ones.
        x: name of the option, whose value is the number at the end of each line's name; None for variants.
        y: label of the y axes.
    """
    figure, axes = new_figure(4.4 * len(panels), 3.2, columns=len(panels))
    names = list(dict.fromkeys(series.name for panel in panels for series in panel.series))
    styles = dict(zip(names, line_styles(f"m{i:03d}" for i in range(len(names))).values(), strict=True))
    for place, panel in zip(axes, panels, strict=True):
        if x is None:
            _points(place, panel, styles)
        else:
            _lines(place, panel, styles)
            place.set_xlabel(x, fontsize=8, color=INK)
        place.set_title(panel.title, fontsize=8.5, color=INK, pad=22, loc="left")
        place.set_ylabel(y, fontsize=8)
        low, high = place.get_ylim()
        if high - low < MIN_SPAN:
            place.set_ylim((low + high - MIN_SPAN) / 2, (low + high + MIN_SPAN) / 2)
        percent_ticks(place.yaxis)
        if place.get_legend_handles_labels()[0]:
            legend_above(place)
    return figure


def _summary(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean, and its distances to the lowest and the highest seed."""
    mean = float(np.mean(values))
    return mean, mean - min(values), max(values) - mean


def _lines(axes: Axes, panel: Panel, styles: Mapping[str, LineStyle]) -> None:
    for series in panel.series:
        points = sorted((number_of(line), *_summary(seeds)) for line, seeds in series.values.items() if seeds)
        if not points:
            continue
        x, mean, below, above = (np.array(column) for column in zip(*points, strict=True))
        style = styles[series.name]
        axes.errorbar(
            x,
            mean,
            yerr=np.stack([below, above]),
            color=style.colour,
            linestyle=style.line,
            marker=style.marker,
            markersize=4,
            linewidth=1.6,
            elinewidth=1,
            capsize=2,
            label=series.name,
        )
    values = sorted({number_of(line) for series in panel.series for line in series.values})
    axes.set_xticks(values, [f"{value:g}" for value in values])


def _points(axes: Axes, panel: Panel, styles: Mapping[str, LineStyle]) -> None:
    lines = list(dict.fromkeys(line for series in panel.series for line in series.values))
    width = 0.8 / max(1, len(panel.series))
    lowest: list[float] = []
    highest: list[float] = []
    for i, series in enumerate(panel.series):
        known = [
            (at, *_summary(series.values[line])) for at, line in enumerate(lines) if series.values.get(line)
        ]
        if not known:
            continue
        at, mean, below, above = (np.array(column) for column in zip(*known, strict=True))
        style = styles[series.name]
        places = at + (i - (len(panel.series) - 1) / 2) * width
        # Points rather than bars: the differences are small, and a bar would have to start at 0.
        axes.errorbar(
            places,
            mean,
            yerr=np.stack([below, above]),
            color=style.colour,
            linestyle="none",
            marker=style.marker,
            markersize=6,
            elinewidth=1.4,
            capsize=3,
            label=series.name,
        )
        lowest.append(float((mean - below).min()))
        highest.append(float((mean + above).max()))
    axes.set_xticks(range(len(lines)), lines, fontsize=7, rotation=20 if len(lines) > 3 else 0)
    axes.set_xlim(-0.6, len(lines) - 0.4)
    if lowest:
        margin = max(0.5, 0.15 * (max(highest) - min(lowest)))
        axes.set_ylim(min(lowest) - margin, max(highest) + margin)
