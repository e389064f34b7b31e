"""Statements of publications against measured differences, and the plots of their figures."""

from __future__ import annotations

import numpy as np
import pytest

from clipalign.report.claims import Claim, Verdict, judge, verdict_grid
from clipalign.report.comparison import Hits
from clipalign.report.option_plot import Panel, Series, number_of, option_figure


def hits(share: float, seed: int = 0, n: int = 200) -> Hits:
    right = (np.random.default_rng(seed).random(n) < share).astype(float)
    return Hits(np.arange(n), right, np.ones(n))


def verdict(above: float, below: float, same: bool = False) -> Verdict:
    lines = {"a": {"x": hits(above)}, "b": {"x": hits(below, 0 if same else 1)}}
    return judge(Claim("a is better", ("a",), ("b",)), {"task": lines}, {"task": "images"})


@pytest.mark.parametrize(
    ("above", "below", "outcome"),
    [(0.9, 0.5, "holds"), (0.5, 0.9, "does not hold"), (0.5, 0.5, "undecided")],
)
def test_verdict_follows_the_interval(above: float, below: float, outcome: str) -> None:
    found = verdict(above, below)
    assert found.outcome == outcome
    grid = verdict_grid([found])
    assert grid.lines[0][:2] == ("a is better", outcome) and bool(grid.bold) == (outcome != "undecided")


def test_equal_lines_are_undecided_and_unknown_lines_not_measured() -> None:
    assert verdict(0.7, 0.7, same=True).outcome == "undecided"
    assert judge(Claim("c is better", ("c",), ("b",)), {"task": {"b": {"x": hits(0.5)}}}, {}).outcome == (
        "not measured"
    )


def test_one_contradiction_refutes_a_statement_on_several_lines() -> None:
    lines = {"a": {"x": hits(0.7)}, "b-1": {"x": hits(0.4, 1)}, "b-2": {"x": hits(0.95, 2)}}
    found = judge(Claim("", ("a",), ("b-*",)), {"task": lines}, {"task": "images"})
    assert [one.outcome for one in found.findings] == ["holds", "does not hold"]
    assert found.outcome == "does not hold"


def test_accuracy_over_an_option_is_sorted_with_the_range_of_the_seeds() -> None:
    series = Series(
        "pictograms", {"layers-10": [52.0, 54.0], "layers-0": [50.0], "layers-2": [51.0, 55.0, 56.0]}
    )
    figure = option_figure([Panel("measured", (series,))], "layers")
    (axes,) = figure.axes
    container = axes.containers[0]
    line, _, (bars,) = container.lines
    assert line.get_xdata().tolist() == [0, 2, 10] and line.get_ydata().tolist() == [50, 54, 53]
    ends = [segment[:, 1].tolist() for segment in bars.get_segments()]
    assert ends == [[50, 50], [51, 56], [52, 54]]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0", "2", "10"]


def test_variants_are_drawn_in_order_and_colours_follow_the_series() -> None:
    measured = Series("b", {"whole": [60.0, 61.0], "none": [59.0]})
    published = Series("a", {"whole": [86.0], "none": [85.0]})
    figure = option_figure([Panel("published", (published,)), Panel("measured", (measured,))], None)
    assert [text.get_text() for text in figure.axes[1].get_xticklabels()] == ["whole", "none"]
    colours = [axes.containers[0].lines[0].get_color() for axes in figure.axes]
    assert colours[0] != colours[1]


def test_line_without_a_number_is_refused() -> None:
    assert number_of("confidence-0.9") == 0.9
    with pytest.raises(ValueError, match='the line "whole" does not end with a number'):
        number_of("whole")
