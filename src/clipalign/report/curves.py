"""Curves of training: loss and source validation accuracy over steps."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Okabe and Ito's colours: told apart by readers with any colour vision, on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5b5b5b")
INK, FAINT = "#1a1a1a", "#d9d9d9"


@dataclass(frozen=True)
class Curve:
    """One line of a plot.

    Attributes:
        steps: ascending.
        values: one per step.
    """

    steps: tuple[int, ...]
    values: tuple[float, ...]


def loss_curve(metrics: Sequence[Mapping[str, Any]]) -> Curve:
    """The sum of all loss terms of each line that has them."""
    return _curve(metrics, lambda line: [v for k, v in line.items() if k.startswith("loss")])


def validation_curve(metrics: Sequence[Mapping[str, Any]]) -> Curve:
    """Accuracy on the source validation rows, or recall@1 of retrieval on validation, in percent."""
    names = ("validation_accuracy", "validation_recall")
    return _curve(
        metrics, lambda line: [None if line[k] is None else 100 * line[k] for k in names if k in line]
    )


def _curve(metrics: Sequence[Mapping[str, Any]], pick: Any) -> Curve:
    points = []
    for line in metrics:
        values = pick(line)
        # A term that was not finite is written as null.
        if values and all(value is not None for value in values):
            points.append((int(line["step"]), float(sum(values))))
    return Curve(tuple(step for step, _ in points), tuple(value for _, value in points))


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """Mean over seeds at the steps that all of them have."""
    known = [dict(zip(curve.steps, curve.values, strict=True)) for curve in curves if curve.steps]
    if not known:
        return Curve((), ())
    steps = sorted(set.intersection(*(set(values) for values in known)))
    return Curve(tuple(steps), tuple(statistics.fmean(values[step] for values in known) for step in steps))


def plot_curves(
    runs: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]], zero_shot: float | None = None
) -> Figure | None:
    """Loss and validation accuracy side by side; thin lines are seeds where there are several.

    Args:
        runs: label -> metrics of each seed.
        zero_shot: the same measure on validation before training in [0, 1], drawn as a dotted line.

    Returns:
        None where nothing was trained.
    """
    retrieved = any("validation_recall" in line for seeds in runs.values() for one in seeds for line in one)
    measure = "mean recall@1 on validation (%)" if retrieved else "accuracy on source validation (%)"
    kinds = (
        ("training loss (sum of its terms)", loss_curve),
        (measure, validation_curve),
    )
    figure = Figure(figsize=(8.4, 2.9), dpi=160, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    drawn = False
    for place, (title, make) in enumerate(kinds):
        axes = figure.add_subplot(1, 2, place + 1)
        axes.set_title(title, fontsize=9, color=INK, loc="left")
        for colour, (label, seeds) in zip(_cycle(len(runs)), runs.items(), strict=True):
            curves = [make(metrics) for metrics in seeds]
            for curve in curves if len(curves) > 1 else []:
                axes.plot(curve.steps, curve.values, color=colour, linewidth=0.6, alpha=0.35)
            mean = mean_curve(curves)
            if mean.steps:
                marker = "o" if len(mean.steps) < 12 else None
                axes.plot(
                    mean.steps,
                    mean.values,
                    color=colour,
                    linewidth=1.8,
                    marker=marker,
                    markersize=3.5,
                    label=label,
                )
                drawn = True
        if place == 1 and zero_shot is not None:
            axes.axhline(100 * zero_shot, color="#5b5b5b", linestyle=":", linewidth=1.2, label="zeroshot")
        axes.set_xlabel("step", fontsize=8, color=INK)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(labelsize=8, colors=INK, length=2)
        axes.grid(color=FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8, frameon=False)
    return figure if drawn else None


def _cycle(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]
