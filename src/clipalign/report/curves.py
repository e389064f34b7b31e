"""Training curves: loss and source validation over steps."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..runs.folder import MetricLine
from .style import INK, ZEROSHOT_COLOUR, LineStyle, new_figure, percent_ticks

VALIDATION = ("validation_accuracy", "validation_recall")


@dataclass(frozen=True)
class Curve:
    """One line of a plot.

    Attributes:
        steps: ascending.
        values: one per step.
    """

    steps: tuple[int, ...]
    values: tuple[float, ...]


def loss_curve(metrics: Sequence[MetricLine]) -> Curve:
    """Return the sum of the loss terms over steps."""
    return _curve(metrics, lambda name: name.startswith("loss"), 1.0)


def validation_curve(metrics: Sequence[MetricLine]) -> Curve:
    """Return source validation accuracy, or recall@1 on validation captions, in percent."""
    return _curve(metrics, lambda name: name in VALIDATION, 100.0)


def _curve(metrics: Sequence[MetricLine], wanted: Callable[[str], bool], factor: float) -> Curve:
    """Sum the wanted values of each line that has them all; a value that was not finite is stored as null."""
    points: dict[int, float] = {}
    for line in metrics:
        values = [value for name, value in line.items() if wanted(name)]
        numbers = [float(value) for value in values if isinstance(value, (int, float))]
        step = line["step"]
        if numbers and len(numbers) == len(values) and isinstance(step, int):
            points[step] = factor * sum(numbers)
    return Curve(tuple(points), tuple(points.values()))


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """Average curves at the steps that all of them have."""
    points = [dict(zip(curve.steps, curve.values, strict=True)) for curve in curves if curve.steps]
    if not points:
        return Curve((), ())
    steps = sorted(set.intersection(*(set(one) for one in points)))
    return Curve(tuple(steps), tuple(statistics.fmean(one[step] for one in points) for step in steps))


def plot_curves(
    runs: Mapping[str, Sequence[Sequence[MetricLine]]],
    styles: Mapping[str, LineStyle],
    zero_shot: float | None = None,
) -> Figure | None:
    """Plot loss and validation side by side: the mean over seeds, and each seed as a thin line.

    Args:
        runs: label -> metrics of each seed.
        styles: label -> style.
        zero_shot: validation accuracy before training, in [0, 1]; drawn as a dotted line.

    Returns:
        The figure, or None if no run has a curve.
    """
    if not any(_curves(seeds, make) for seeds in runs.values() for make in (loss_curve, validation_curve)):
        return None
    figure, (loss, validation) = new_figure(8.4, 2.9, columns=2)
    recall = any("validation_recall" in line for seeds in runs.values() for one in seeds for line in one)
    titles = (
        "training loss (sum of terms)",
        "recall@1 on validation (%)" if recall else "source validation (%)",
    )
    for axes, title, make in zip((loss, validation), titles, (loss_curve, validation_curve), strict=True):
        axes.set_title(title, fontsize=9, color=INK, loc="left")
        for label, seeds in runs.items():
            _plot(axes, label, styles[label], _curves(seeds, make))
        _step_axis(axes)
    if zero_shot is not None:
        validation.axhline(
            100 * zero_shot, color=ZEROSHOT_COLOUR, linestyle=":", linewidth=1.2, label="zeroshot"
        )
    percent_ticks(validation.yaxis)
    entries = {
        label: handle
        for axes in (loss, validation)
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        entries.values(), entries.keys(), fontsize=8, frameon=False, loc="outside upper center", ncols=4
    )
    return figure


def _curves(
    seeds: Sequence[Sequence[MetricLine]], make: Callable[[Sequence[MetricLine]], Curve]
) -> list[Curve]:
    return [curve for metrics in seeds if (curve := make(metrics)).steps]


def _plot(axes: Axes, label: str, style: LineStyle, curves: Sequence[Curve]) -> None:
    """Plot the mean of curves, and the curves themselves if there are several."""
    for curve in curves if len(curves) > 1 else ():
        axes.plot(curve.steps, curve.values, color=style.colour, linewidth=0.6, alpha=0.35)
    mean = mean_curve(curves)
    if mean.steps:
        axes.plot(
            mean.steps,
            mean.values,
            color=style.colour,
            linestyle=style.line,
            linewidth=1.8,
            marker=style.marker if len(mean.steps) < 12 else None,
            markersize=3.5,
            label=label,
        )


def _step_axis(axes: Axes) -> None:
    """Label the x axis with steps, at integers only."""
    axes.set_xlabel("step", fontsize=8, color=INK)
    # With the default of two ticks, matplotlib falls back to fractions if a short run spans fewer integers.
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
