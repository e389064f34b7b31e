"""Bootstrap intervals against closed forms, and differences of runs with stored predictions."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from clipalign.commands.report import write_report
from clipalign.core.errors import UserError
from clipalign.evaluation.bootstrap import Estimate, UnitValues, bootstrap
from clipalign.evaluation.results import ResultRow, write_results
from clipalign.report.collect import find_runs
from clipalign.report.comparison import Difference, differences, differences_csv, line_accuracies
from clipalign.report.document import Grid
from clipalign.report.html import to_html
from clipalign.report.markdown import to_markdown
from clipalign.report.published import published_sections
from clipalign.report.rows import ReportRow
from clipalign.report.sections import difference_section


def write_run(
    folder: Path,
    method: str,
    right: np.ndarray,
    *,
    data: str = "photos",
    target: str = "noto",
    seed: int = 0,
    views: int = 1,
    concepts: int = 4,
    backbone: str = "pocket",
) -> None:
    """Write a run with the correct predictions `right` [n]; each row of the data has `views` consecutive views."""
    folder.mkdir(parents=True)
    n = len(right)
    rows = np.arange(n) // views
    labels = rows % concepts
    ranked = np.stack([np.where(right, labels, (labels + 1) % concepts), labels], axis=1)
    arrays = {"all/rows": rows, "all/labels": labels, "all/ranked": ranked}
    np.savez_compressed(folder / "predictions.npz", **{k: v.astype(np.int32) for k, v in arrays.items()})
    row = ResultRow(
        method, backbone, data, "domain-shift", target, "all", seed, 5, n, float(right.mean()), validation=0.5
    )
    write_results(folder, [row])
    (folder / "config.yaml").write_text(yaml.safe_dump({"method": method, "seed": seed, "steps": 5}))


def test_interval_of_a_share_is_binomial() -> None:
    generator = np.random.default_rng(0)
    right = (generator.random(400) < 0.3).astype(float)
    p = right.mean()
    e = bootstrap([UnitValues(np.arange(400), right, np.ones(400))])
    error = np.sqrt(p * (1 - p) / 400)
    assert e.value == pytest.approx(p)
    assert e.error == pytest.approx(error, rel=0.06)
    assert (e.low, e.high) == pytest.approx((p - 1.96 * error, p + 1.96 * error), abs=0.006)
    assert e.detectable == pytest.approx(2.8 * error, rel=0.06)


def test_intervals_cover_the_true_value_in_95_percent() -> None:
    generator = np.random.default_rng(1)
    inside = 0
    for i in range(200):
        value = generator.normal(0.1, 1, 60)
        e = bootstrap([UnitValues(np.arange(60), value, np.ones(60))], seed=i, draws=400)
        inside += e.low <= 0.1 <= e.high
    assert 0.89 <= inside / 200 <= 0.99


def test_bootstrap_counts_views_of_one_unit_once() -> None:
    right = (np.random.default_rng(2).random(50) < 0.5).astype(float)
    one = bootstrap([UnitValues(np.arange(50), right, np.ones(50))])
    eight = bootstrap([UnitValues(np.arange(50), 8 * right, np.full(50, 8.0))])
    assert eight == one


def test_bootstrap_draws_a_unit_of_two_parts_once() -> None:
    value = np.random.default_rng(3).normal(size=100)
    part = UnitValues(np.arange(100), value, np.ones(100))
    once, together = bootstrap([part]), bootstrap([part, part])
    apart = bootstrap([part, UnitValues(np.arange(100) + 1000, value, np.ones(100))])
    assert together.error == pytest.approx(once.error)
    assert apart.error == pytest.approx(once.error / 2**0.5, rel=0.1)


def test_paired_difference_has_smaller_error_than_the_accuracies(tmp_path: Path) -> None:
    generator = np.random.default_rng(4)
    base = generator.random(200) < 0.5
    better = base.copy()
    better[np.flatnonzero(~base)[:12]] = True
    write_run(tmp_path / "a", "erm", base)
    write_run(tmp_path / "b", "alignclip", better)
    (found,) = differences(find_runs(tmp_path))
    assert (found.label, found.baseline, found.units, found.unit) == ("alignclip", "erm", 200, "images")
    assert found.estimate.value == pytest.approx(12 / 200)
    assert found.estimate.error == pytest.approx(np.sqrt(0.06 * 0.94 / 200), rel=0.06)
    separate = next(line for line in line_accuracies(find_runs(tmp_path)) if line.label == "erm")
    assert separate.estimate.error > 1.8 * found.estimate.error
    (turned,) = differences(find_runs(tmp_path), "alignclip")
    assert turned.estimate.value == -found.estimate.value
    lines = list(csv.DictReader(io.StringIO(differences_csv([found]))))
    assert float(lines[0]["difference"]) == pytest.approx(6.0) and lines[0]["baseline"] == "erm"


def test_differences_on_pictograms_resample_concepts_and_average_seeds_and_targets(tmp_path: Path) -> None:
    generator = np.random.default_rng(5)
    for target in ("noto", "twemoji"):
        for seed in (0, 1):
            for method, share in (("zeroshot", 0.3), ("alignclip", 0.5)):
                right = generator.random(160) < share
                place = tmp_path / f"{method}-{target}-{seed}"
                write_run(
                    place, method, right, data="pictograms", target=target, seed=seed, views=4, concepts=20
                )
    found = {d.target: d for d in differences(find_runs(tmp_path))}
    assert set(found) == {"noto", "twemoji", "mean"}
    assert {(d.units, d.unit) for d in found.values()} == {(20, "concepts")}
    mean = (found["noto"].estimate.value + found["twemoji"].estimate.value) / 2
    assert found["mean"].estimate.value == pytest.approx(mean)
    # The same concepts are drawn for both targets, so errors add up as deviations of correlated means do.
    both = [found[name].estimate.error for name in ("noto", "twemoji")]
    assert max(both) / 2 < found["mean"].estimate.error <= sum(both) / 2


def test_unknown_baseline_raises_with_the_known_lines(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "erm", np.ones(20, bool))
    with pytest.raises(UserError, match="--baseline clipood: no such line; there are erm"):
        differences(find_runs(tmp_path), "clipood")


def test_published_numbers_are_listed_but_enter_no_table(tmp_path: Path) -> None:
    generator = np.random.default_rng(6)
    backbone = "ViT-B-16:openai"
    for method in ("erm", "alignclip"):
        right = generator.random(40) < 0.5
        write_run(tmp_path / method, method, right, data="vlcs", target="SUN09", backbone=backbone)
    report = write_report(tmp_path, tmp_path / "report", pictures=0)
    text = report.markdown.read_text()
    assert "| vlcs, domain-shift, SUN09 | all | alignclip | ViT-B-16:openai |" in text
    assert "| 80.9 | target split all instead of out |" in text and "80.9" not in report.csv.read_text()
    assert "## Differences" in text and ": method minus erm" in text
    assert report.differences.read_text().count("\n") == 2
    assert (tmp_path / "report" / "pictures" / "bars-1.png").is_file()
    assert (tmp_path / "report" / "pictures" / "shift-1.png").is_file()
    (row,) = find_runs(tmp_path / "erm")[0].results
    assert published_sections([ReportRow(replace(row, data="mine"))]) == []


def test_differences_are_sorted_within_targets_with_the_mean_last(tmp_path: Path) -> None:
    shares = {"erm": 0.5, "alignclip": 0.4, "coral": 0.7, "clipood": 0.6}
    for target in ("SUN09", "LabelMe"):
        for method, share in shares.items():
            right = np.arange(40) < 40 * share
            write_run(tmp_path / target / method, method, right, data="vlcs", target=target)
    found = differences(find_runs(tmp_path))
    targets = list(dict.fromkeys(d.target for d in found))
    assert len(found) == 9 and targets[2] == "mean"
    for target in targets:
        assert [d.label for d in found if d.target == target] == ["coral", "clipood", "alignclip"]


def difference(value: float, low: float, high: float) -> tuple[str, ...]:
    """Return the printed line of a difference."""
    one = Difference("task", "", "all", "a", "b", Estimate(value, low, high, 0.01), 40, "images")
    grid = difference_section([one])[1]
    assert isinstance(grid, Grid)
    return grid.lines[0][3:6]


def test_difference_of_zero_is_printed_without_sign() -> None:
    assert difference(0, 0, 0) == ("0.0", "equal on all units", "no")
    assert difference(-0.0004, -0.02, 0.0002) == ("0.0", "-2.0 to 0.0", "no")
    assert difference(0.0003, 0.0001, 0.0004) == ("0.0", "+0.01 to +0.04", "yes")
    assert difference(0.00002, 0.00001, 0.00003) == ("0.0", "+0.001 to +0.003", "yes")
    assert difference(0.05, 0.01, 0.09) == ("+5.0", "+1.0 to +9.0", "yes")


def test_bold_marks_only_differences_whose_interval_excludes_zero() -> None:
    estimates = {
        "a": (0.02, 0.01, 0.03),
        "b": (0.02, -0.01, 0.05),
        "c": (0.0, 0.0, 0.0),
        "d": (-0.1, -0.2, -0.05),
    }
    found = [
        Difference("task", "", "all", label, "erm", Estimate(*ends, 0.01), 40, "images")
        for label, ends in estimates.items()
    ]
    grid = difference_section(found)[1]
    assert isinstance(grid, Grid)
    assert {grid.lines[i][2] for i, _ in grid.bold} == {"a", "d"}
    assert "| **+2.0** | **+1.0 to +3.0** |" in to_markdown("", [grid], Path())
    page = to_html("", [grid])
    assert page.count('class="number best"') == 4 and page.count("-0.0") == 0
