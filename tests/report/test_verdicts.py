"""Verdicts on the cells of published tables."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import pytest

from clipalign.evaluation.results import ResultRow
from clipalign.report.document import Grid
from clipalign.report.measurements import Measurement
from clipalign.report.published import PublishedNumber, published_numbers
from clipalign.report.rows import ReportRow
from clipalign.report.verdicts import (
    cells_csv,
    compare_cells,
    on_other_data,
    other_images,
    published_images,
    verdict_of,
    verdict_sections,
)


def number(percent: str = "80.0", std: str = "0.2") -> PublishedNumber:
    """Return AlignCLIP's number of table 6 for SUN09 with another value."""
    found = (
        n for n in published_numbers() if (n.table, n.target, n.method) == ("table 6", "SUN09", "alignclip")
    )
    return replace(next(found), percent=percent, std_percent=std, note="")


def measured(*percents: float, **changes: str) -> Measurement:
    """Return a measurement of the same cell, one value per seed."""
    m = Measurement(
        label="alignclip",
        method="alignclip",
        data="vlcs",
        protocol="domain-shift",
        target="SUN09",
        test="out",
        metric="accuracy",
        backbone="ViT-B-16:openai",
        shots="",
        template="default",
        settings={},
        values={seed: percent / 100 for seed, percent in enumerate(percents)},
    )
    return replace(m, **changes)


@pytest.mark.parametrize(
    ("published", "std", "values", "verdict"),
    [
        ("80.0", "0.2", (80.44,), "within spread"),  # 2 x 0.2 + 0.05
        ("80.0", "0.2", (80.46,), "above"),
        ("80.0", "0.2", (79.54,), "below"),
        ("80.0", "0.2", (79.0, 80.0, 81.0), "within spread"),
        ("80.0", "0.2", (81.0, 82.0, 83.0), "within spread"),  # 2 sqrt(0.04 + 1) + 0.05 = 2.09
        ("80.0", "0.2", (81.2, 82.2, 83.2), "above"),
        ("80.0", "", (81.9, 82.9, 83.9), "above"),
        ("80.0", "", (81.8, 82.8, 83.8), "within spread"),  # 2 sqrt(2) + 0.05 = 2.88
        ("80.0", "", (80.05,), "within spread"),
        ("80.0", "", (80.06,), "above"),
        ("80", "", (80.5,), "within spread"),
        ("90.07", "", (90.08,), "above"),
    ],
)
def test_verdict_allows_two_spreads_and_rounding(
    published: str, std: str, values: tuple[float, ...], verdict: str
) -> None:
    assert verdict_of(number(published, std), measured(*values)) == verdict


def test_conditions_that_differ_make_a_cell_incomparable() -> None:
    (cell,) = compare_cells([number()], [measured(80.0, test="all", backbone="pocket")], ["steps is 2"])
    assert cell.text == (
        "not comparable because target split all instead of out; backbone pocket instead of ViT-B-16:openai; "
        "steps is 2"
    )


def test_recipe_makes_a_cell_incomparable() -> None:
    for settings, reason in (
        ({"recipe": "common"}, "recipe common instead of published"),
        ({"recipe": "published", "recipe_changes": "lr"}, "recipe published except lr"),
    ):
        (cell,) = compare_cells([number()], [replace(measured(80.0), settings=settings)])
        assert (cell.verdict, cell.reasons) == ("not comparable", (reason,))


def test_measurement_with_the_fewest_differences_is_compared() -> None:
    (cell,) = compare_cells([number()], [measured(10.0, test="all"), measured(80.1)])
    assert (cell.verdict, cell.reasons) == ("within spread", ())
    (cell,) = compare_cells([number()], [measured(80.0, target="LabelMe")])
    assert (cell.verdict, cell.measured) == ("not measured", None)


def test_number_of_test_images_makes_a_data_set_incomparable() -> None:
    row = ResultRow(
        "alignclip", "pocket", "vlcs", "domain-shift", "SUN09", "out", 0, 5, 656, 0.8, template=""
    )
    assert other_images([ReportRow(row)]) == {}
    incomplete = other_images([ReportRow(replace(row, n=655))])
    assert incomplete == {"vlcs": "vlcs SUN09 out has 655 test images instead of 656"}
    (cell,) = compare_cells([number()], [measured(80.0)], incomplete=incomplete)
    assert cell.reasons == tuple(incomplete.values())


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        (("pacs", "domain-shift", "photo", "in"), {1336}),
        (("pacs", "in-the-wild", "photo", "all"), {1670}),
        (("terra-incognita", "domain-shift", "location_38", "out"), {1953, 1947}),
        (("dtd", "base-to-new", "", "base and new"), {1692}),
        (("imagenet-shift", "imagenet-shift", "", "imagenet-a"), {7500}),
        (("urban1k", "retrieval", "", "long"), {1000}),
        (("pictograms", "in-the-wild", "noto", "all"), set()),
        (("office-home", "in-the-wild", "Art", "base"), set()),
    ],
)
def test_published_numbers_of_test_images(place: tuple[str, str, str, str], expected: set[int]) -> None:
    assert published_images(*place) == expected


def test_other_data_are_compared_with_the_mean_of_the_published_values() -> None:
    values = {"SUN09": "80.0", "LabelMe": "70.0"}
    numbers = [replace(number(percent), target=target) for target, percent in values.items()]
    numbers.append(replace(number("99.0"), data="mean-of-5", target="mean"))
    found = [measured(50.0, data="mine", target=target) for target in ("a", "b")]
    means, averages = on_other_data(numbers, found, "mine")
    assert [(n.data, n.target, n.percent) for n in means] == [("mine", "mean", "75.0")]
    (cell,) = compare_cells(means, averages, ["data mine instead of vlcs"])
    assert cell.measured is not None and cell.measured.values == {0: 0.5}
    assert cell.text == "not comparable because data mine instead of vlcs"


def test_report_counts_verdicts_and_lists_notes() -> None:
    cells = compare_cells([number(), replace(number("70.0"), target="LabelMe")], [measured(80.1, 80.3)])
    parts = verdict_sections("Table", cells, ["A note."])
    grid = next(part for part in parts if isinstance(part, Grid))
    assert parts[0].text == "Table. 2 published cells: 1 within spread, 1 not measured."  # type: ignore[union-attr]
    assert grid.lines[0][3:] == ("80.2 ± 0.1", "2", "80.0 ± 0.2", "+0.2", "within spread")
    assert grid.lines[1][3:] == ("–", "", "70.0 ± 0.2", "", "not measured")
    first, second = csv.DictReader(io.StringIO(cells_csv(cells)))
    assert (first["measured"], first["verdict"]) == ("80.2000", "within spread")
    assert (second["measured"], second["verdict"]) == ("", "not measured")
