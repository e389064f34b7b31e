"""Sections and plots of differences: bars with intervals, accuracy over shift, base over new."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..explain.figures import save
from .collect import Found
from .curves import COLOURS, FAINT, INK
from .document import Grid, Heading, Part, Picture
from .statistics import POWER, Difference, Measured, measured
from .tables import order_labels


def compared(found: Sequence[Difference]) -> list[Part]:
    """Differences with their intervals; nothing where there is no baseline to compare with."""
    if not found:
        return []
    lines = []
    for d in found:
        e = d.estimate
        sure = "yes" if e.low > 0 or e.high < 0 else "no"
        interval = f"{100 * e.low:+.1f} to {100 * e.high:+.1f}"
        place = (f"{d.place}, {d.target}" if d.target else d.place, d.test, f"{d.label} - {d.baseline}")
        numbers = (
            f"{100 * e.value:+.1f}",
            interval,
            sure,
            f"{100 * e.detectable:.1f}",
            f"{d.units} {d.unit}",
        )
        lines.append((*place, *numbers))
    note = (
        "Percentage points, on the same images, seeds averaged. Interval: 95 %, bootstrap over the units; it says how "
        "far another test set of this kind would move the difference, not how far another seed would. Smallest: "
        f"the true difference that a test of this size finds 4 times of 5 ({POWER:.1f} standard errors). Twenty "
        "lines hold one such interval that misses by chance."
    )
    heads = ("task", "test", "comparison", "difference", "95 % interval", "beyond 0", "smallest", "units")
    return [Heading("Differences"), Grid(heads, tuple(lines), note, labels=3)]


def plots(runs: Sequence[Found], folder: Path) -> list[Part]:
    """Bars, accuracy over shift and base over new, for the tables that have what they need."""
    parts: list[Part] = []
    everything = measured(runs)
    for number, place in enumerate(dict.fromkeys(m.place for m in everything), 1):
        mine = [m for m in everything if m.place == place]
        shown = [m for m in mine if m.test == "all"] or mine
        if len({m.label for m in shown}) > 1:
            path = save(bars(shown), folder / f"bars-{number}.png")
            text = f"{place}. Accuracy on test images; lines: 95 % intervals by bootstrap over independent units."
            parts.append(Picture(path, "Accuracy with intervals", text))
            shifted = [m for m in shown if m.validation is not None]
            if shifted:
                path = save(shift(shifted), folder / f"shift-{number}.png")
                text = (
                    f"{place}. Held-out rows of the source domains across, test rows up; a point per target. On the "
                    "dotted line the shift costs nothing."
                )
                parts.append(Picture(path, "Accuracy over shift", text))
        if {"base", "new"} <= {m.test for m in mine}:
            path = save(base_new(mine), folder / f"base-new-{number}.png")
            text = f"{place}. Base classes across, new classes up; grey: lines of equal harmonic mean."
            parts.append(Picture(path, "Base against new classes", text))
    return [Heading("Plots"), *parts] if parts else []


def bars(found: Sequence[Measured]) -> Figure:
    """A group of bars per target (or test set), a bar per line of the table."""
    groups = list(dict.fromkeys((m.target, m.test) for m in found))
    labels = order_labels(m.label for m in found)
    figure, axes = _figure(max(6.0, 1.2 + 0.3 * len(groups) * len(labels)))
    width = 0.8 / len(labels)
    for i, label in enumerate(labels):
        mine = {(m.target, m.test): m.estimate for m in found if m.label == label}
        at = [g for g, group in enumerate(groups) if group in mine]
        points = [mine[groups[g]] for g in at]
        axes.bar(
            np.array(at) + (i - (len(labels) - 1) / 2) * width,
            [100 * e.value for e in points],
            width * 0.92,
            yerr=np.array([[100 * (e.value - e.low), 100 * (e.high - e.value)] for e in points]).T.clip(0),
            color=COLOURS[i % len(COLOURS)],
            error_kw={"elinewidth": 1, "ecolor": INK, "capsize": 2},
            label=label,
        )
    one_test = len({test for _, test in groups}) == 1
    names = [target or test if one_test else f"{target} {test}".strip() for target, test in groups]
    axes.set_xticks(range(len(groups)), names, fontsize=8)
    axes.set_ylabel("accuracy (%)", fontsize=8)
    legend_above(axes)
    return figure


def shift(found: Sequence[Measured]) -> Figure:
    """Source validation against test accuracy."""
    figure, axes = _figure(4.6, 4.2)
    values = [100 * v for m in found for v in (m.validation or 0, m.estimate.value)]
    span = [min(values), max(values)]
    axes.plot(span, span, ":", color=INK, linewidth=1)
    for i, label in enumerate(order_labels(m.label for m in found)):
        mine = [m for m in found if m.label == label and m.validation is not None]
        axes.plot(
            [100 * (m.validation or 0) for m in mine],
            [100 * m.estimate.value for m in mine],
            "o",
            color=COLOURS[i % len(COLOURS)],
            markersize=4.5,
            label=label,
        )
    axes.set_xlabel("source validation (%)", fontsize=8)
    axes.set_ylabel("test (%)", fontsize=8)
    legend_above(axes)
    return figure


def base_new(found: Sequence[Measured]) -> Figure:
    """Base against new accuracy, over lines of equal harmonic mean."""
    figure, axes = _figure(4.6, 4.2)
    points: dict[tuple[str, str], dict[str, float]] = {}
    for m in found:
        points.setdefault((m.label, m.target), {})[m.test] = 100 * m.estimate.value
    both = {key: (p["base"], p["new"]) for key, p in points.items() if {"base", "new"} <= set(p)}
    for i, label in enumerate(order_labels(label for label, _ in both)):
        mine = np.array([xy for (name, _), xy in both.items() if name == label])
        axes.plot(mine[:, 0], mine[:, 1], "o", color=COLOURS[i % len(COLOURS)], markersize=4.5, label=label)
    low, high = axes.get_xlim(), axes.get_ylim()
    x, y = np.meshgrid(np.linspace(max(low[0], 0.1), low[1], 80), np.linspace(max(high[0], 0.1), high[1], 80))
    lines = axes.contour(x, y, 2 * x * y / (x + y), levels=6, colors=FAINT, linewidths=0.8, zorder=0)
    axes.clabel(lines, fontsize=7, fmt="%.0f")
    axes.set_xlabel("base classes (%)", fontsize=8)
    axes.set_ylabel("new classes (%)", fontsize=8)
    legend_above(axes)
    return figure


def _figure(width: float, height: float = 3.0) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(min(width, 12), height), dpi=160, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.tick_params(labelsize=8, colors=INK, length=2)
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def legend_above(axes: Axes) -> None:
    """The legend over the plot, where it hides no bar and no point."""
    axes.legend(fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=6)
