"""Plots of accuracies: bars with intervals, test over source validation, new over base classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..explain.figures import save
from .collect import StoredRun
from .comparison import LineAccuracy, line_accuracies
from .document import Heading, Part, Picture
from .rows import order_labels
from .style import INK, LineStyle, legend_above, new_figure, percent_ticks

Styles = Mapping[str, LineStyle]
GREY = "#8f8f8f"
MIN_SPAN = 1.0  # points of accuracy on an axis, at least
CONTOURS = 6  # lines of equal harmonic mean, at most


def plots(runs: Sequence[StoredRun], folder: Path, styles: Styles) -> list[Part]:
    """Return the section of plots, each for the tables that have its values.

    Args:
        runs: those with predictions are used.
        folder: folder of the PNG files.
        styles: label -> style.
    """
    parts: list[Part] = []
    everything = line_accuracies(runs)
    for number, task in enumerate(dict.fromkeys(line.task for line in everything), 1):
        lines = [line for line in everything if line.task == task]
        scored = [line for line in lines if line.test == "all"] or lines
        if len({line.label for line in scored}) > 1:
            path = save(bars(scored, styles), folder / f"bars-{number}.png")
            text = f"{task}. Test accuracy with 95 % bootstrap intervals over independent units."
            parts.append(Picture(path, "Accuracy with intervals", text))
            validated = [line for line in scored if line.validation is not None]
            if validated:
                path = save(shift(validated, styles), folder / f"shift-{number}.png")
                text = (
                    f"{task}. Test accuracy over source validation accuracy; one point per target. On the dotted "
                    "line the domain shift costs nothing."
                )
                parts.append(Picture(path, "Accuracy under domain shift", text))
        if {"base", "new"} <= {line.test for line in lines}:
            path = save(base_new(lines, styles), folder / f"base-new-{number}.png")
            text = f"{task}. Accuracy on new over base classes; grey: lines of equal harmonic mean."
            parts.append(Picture(path, "Base and new classes", text))
    return [Heading("Plots"), *parts] if parts else []


def bars(lines: Sequence[LineAccuracy], styles: Styles) -> Figure:
    """Plot a group of bars per target (or test set), with a bar per table line."""
    groups = list(dict.fromkeys((line.target, line.test) for line in lines))
    labels = order_labels(line.label for line in lines)
    figure, (axes,) = new_figure(min(12.0, max(6.0, 1.2 + 0.3 * len(groups) * len(labels))), 3.0)
    width = 0.8 / len(labels)
    for i, label in enumerate(labels):
        estimates = {(line.target, line.test): line.estimate for line in lines if line.label == label}
        at = [position for position, group in enumerate(groups) if group in estimates]
        points = [estimates[groups[position]] for position in at]
        errors = np.array([[e.value - e.low, e.high - e.value] for e in points]).T.clip(0)  # [2, bars]
        axes.bar(
            np.array(at) + (i - (len(labels) - 1) / 2) * width,
            [100 * e.value for e in points],
            width * 0.92,
            yerr=100 * errors,
            color=styles[label].colour,
            hatch=styles[label].hatch,
            edgecolor="white",
            linewidth=0,
            error_kw={"elinewidth": 1, "ecolor": INK, "capsize": 2},
            label=label,
        )
    one_test = len({test for _, test in groups}) == 1
    names = [target or test if one_test else f"{target} {test}".strip() for target, test in groups]
    axes.set_xticks(range(len(groups)), names, fontsize=8)
    axes.set_ylabel("accuracy (%)", fontsize=8)
    legend_above(axes)
    return figure


def shift(lines: Sequence[LineAccuracy], styles: Styles) -> Figure:
    """Plot test accuracy over source validation accuracy; lines without validation are skipped."""
    known = [(line, 100 * line.validation) for line in lines if line.validation is not None]
    figure, (axes,) = new_figure(4.6, 4.2)
    values = [value for line, validation in known for value in (validation, 100 * line.estimate.value)]
    diagonal = [min(values), max(values)]
    axes.plot(diagonal, diagonal, ":", color=INK, linewidth=1)
    for label in order_labels(line.label for line, _ in known):
        points = [(x, 100 * line.estimate.value) for line, x in known if line.label == label]
        _scatter(axes, points, label, styles[label])
    axes.set_xlabel("source validation (%)", fontsize=8)
    axes.set_ylabel("test (%)", fontsize=8)
    _percentages(axes)
    legend_above(axes)
    return figure


def base_new(lines: Sequence[LineAccuracy], styles: Styles) -> Figure:
    """Plot accuracy on new over base classes, with contours of equal harmonic mean."""
    tests: dict[tuple[str, str], dict[str, float]] = {}
    for line in lines:
        tests.setdefault((line.label, line.target), {})[line.test] = 100 * line.estimate.value
    both = {key: (test["base"], test["new"]) for key, test in tests.items() if {"base", "new"} <= set(test)}
    figure, (axes,) = new_figure(4.6, 4.2)
    for label in order_labels(label for label, _ in both):
        _scatter(axes, [point for (name, _), point in both.items() if name == label], label, styles[label])
    _percentages(axes)
    _harmonic_contours(axes)
    axes.set_xlabel("base classes (%)", fontsize=8)
    axes.set_ylabel("new classes (%)", fontsize=8)
    legend_above(axes)
    return figure


def _scatter(axes: Axes, points: Sequence[tuple[float, float]], label: str, style: LineStyle) -> None:
    x, y = zip(*points, strict=True)
    axes.plot(x, y, style.marker, color=style.colour, markersize=4.5, label=label)


def _percentages(axes: Axes) -> None:
    """Place round ticks on both axes; spans below one point are widened, since they show rounding only."""
    for axis, (low, high), limit in (
        (axes.xaxis, axes.get_xlim(), axes.set_xlim),
        (axes.yaxis, axes.get_ylim(), axes.set_ylim),
    ):
        if high - low < MIN_SPAN:
            middle = (low + high) / 2
            limit(middle - MIN_SPAN / 2, middle + MIN_SPAN / 2)
        percent_ticks(axis)


def _harmonic_contours(axes: Axes) -> None:
    """Draw lines of equal harmonic mean under the points, each with its own label."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    x, y = np.meshgrid(np.linspace(max(left, 0.1), right, 80), np.linspace(max(bottom, 0.1), top, 80))
    h = 2 * x * y / (x + y)  # [80, 80]
    levels = contour_levels(float(h.min()), float(h.max()))
    if not levels:
        return
    contours = axes.contour(x, y, h, levels=levels, colors=GREY, linewidths=0.8, zorder=0)
    # As many decimals as the levels need, so that no two contours have the same label.
    decimals = next(d for d in range(6) if len({f"{level:.{d}f}" for level in levels}) == len(levels))
    axes.clabel(contours, fontsize=7, fmt=f"%.{decimals}f")


def contour_levels(low: float, high: float) -> list[float]:
    """Return round levels within an interval, ascending."""
    ticks = MaxNLocator(nbins=CONTOURS, steps=[1, 2, 5, 10]).tick_values(low, high)
    return [float(tick) for tick in ticks if low < tick < high]
