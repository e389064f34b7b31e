from __future__ import annotations

import itertools

import numpy as np
import pytest

from clipalign.evaluation.bootstrap import Estimate
from clipalign.report.comparison import LineAccuracy
from clipalign.report.curves import plot_curves
from clipalign.report.plots import bars, base_new, contour_levels, shift
from clipalign.report.style import COLOURS, ZEROSHOT_COLOUR, line_styles

LABELS = ["zeroshot", "erm", "alignclip (guide dv)", "alignclip (guide vvv)"]


def lines(*, spread: float = 0.1) -> list[LineAccuracy]:
    """Accuracies of four table lines on two targets, on base and new classes."""
    found = []
    for (i, label), target, test in itertools.product(
        enumerate(LABELS), ("noto", "twemoji"), ("base", "new")
    ):
        value = 0.4 + spread * i / len(LABELS)
        estimate = Estimate(value, value - 0.01, value + 0.01, 0.005)
        found.append(LineAccuracy("task", target, test, label, estimate, 0.5))
    return found


def test_line_styles_differ_and_keep_grey_for_zeroshot() -> None:
    styles = line_styles([*(f"method-{i}" for i in range(15)), "zeroshot", "zeroshot (template a)"])
    assert len(set(styles.values())) == 17
    grey = {label for label, style in styles.items() if style.colour == ZEROSHOT_COLOUR}
    assert grey == {"zeroshot", "zeroshot (template a)"} and ZEROSHOT_COLOUR not in COLOURS


def test_colour_of_a_method_is_the_same_in_all_plots() -> None:
    styles = line_styles(LABELS)
    metrics = [{"step": step, "loss": 1.0, "validation_accuracy": 0.5} for step in (1, 2)]
    curves = plot_curves({label: [metrics] for label in LABELS[2:]}, styles)
    assert curves is not None
    scored = [line for line in lines() if line.test == "base"]
    for label in LABELS[2:]:
        expected = styles[label].colour
        handles = [
            dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))[label]
            for figure in (curves, shift(scored, styles), base_new(lines(), styles))
            for axes in figure.axes
        ]
        assert len(handles) == 4 and {handle.get_color() for handle in handles} == {expected}
        (container,) = [c for c in bars(scored, styles).axes[0].containers if c.get_label() == label]
        assert {patch.get_facecolor()[:3] for patch in container.patches} == {rgb(expected)}


def rgb(colour: str) -> tuple[float, ...]:
    """Return "#rrggbb" as shares."""
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))


@pytest.mark.parametrize("spread", [0.5, 0.1, 0.004, 0.0])
def test_contour_labels_of_base_new_plot_are_distinct(spread: float) -> None:
    (axes,) = base_new(lines(spread=spread), line_styles(LABELS)).axes
    labels = [text.get_text() for text in axes.texts]
    assert len(labels) > 1 and len(set(labels)) == len(labels)


def test_contour_levels_are_round_and_inside() -> None:
    assert contour_levels(41.3, 55.2) == [45.0, 50.0, 55.0]
    assert contour_levels(40.0, 40.4) == pytest.approx([40.1, 40.2, 40.3])


@pytest.mark.parametrize("steps", [(1,), (1, 2), (3, 4), (10, 20), (500, 5000)])
def test_step_axis_has_integer_ticks_only(steps: tuple[int, ...]) -> None:
    metrics = [{"step": step, "loss": 1.0 / step, "validation_accuracy": 0.5} for step in steps]
    figure = plot_curves({"erm": [metrics]}, line_styles(["erm"]))
    assert figure is not None
    for axes in figure.axes:
        low, high = axes.get_xlim()
        ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert ticks and all(tick == round(tick) for tick in ticks)


@pytest.mark.parametrize("spread", [0.5, 0.1, 0.01, 0.0004, 0.0])
def test_percent_axes_have_round_ticks(spread: float) -> None:
    styles = line_styles(LABELS)
    metrics = [{"step": s, "loss": 1.0, "validation_accuracy": 0.65 + spread * s / 40} for s in (4, 8, 12)]
    curves = plot_curves({"erm": [metrics]}, styles)
    assert curves is not None
    figures = base_new(lines(spread=spread), styles), shift(lines(spread=spread), styles)
    axes = [axis for figure in figures for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis)]
    for axis in (*axes[:2], *axes[2:], curves.axes[1].yaxis):
        steps = np.diff(axis.get_majorticklocs())
        digit = f"{steps[0]:e}"[0]
        assert np.allclose(steps, steps[0]) and digit in "125" and f"{steps[0]:.0e}"[0] == digit
    for axis in axes:
        low, high = axis.get_view_interval()
        assert high - low >= 1


def test_curves_have_one_legend_with_each_line_once() -> None:
    metrics = [{"step": step, "loss": 1.0, "validation_accuracy": 0.5} for step in (1, 2)]
    figure = plot_curves({label: [metrics] for label in ("erm", "coral")}, line_styles(["erm", "coral"]), 0.4)
    assert figure is not None and not any(axes.get_legend() for axes in figure.axes)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["erm", "coral", "zeroshot"]
