"""Intervals against what is known of them, and differences of runs with written predictions."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import yaml

from clipalign.commands.report import write_report
from clipalign.core.errors import UserError
from clipalign.data.published.tables import declarations
from clipalign.methods import all_methods
from clipalign.protocols import list_protocols
from clipalign.report.collect import find_runs
from clipalign.report.published import published, published_beside
from clipalign.report.statistics import bootstrap, differences, measured, to_csv
from clipalign.runs.results import ResultRow, write_results


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
) -> None:
    """A run whose predictions are right where `right` [n] says so; `views` in a row belong to one row."""
    folder.mkdir(parents=True)
    n = len(right)
    rows = np.arange(n) // views
    labels = rows % concepts
    ranked = np.stack([np.where(right, labels, (labels + 1) % concepts), labels], axis=1)
    arrays = {"all/rows": rows, "all/labels": labels, "all/ranked": ranked}
    np.savez_compressed(folder / "predictions.npz", **{k: v.astype(np.int32) for k, v in arrays.items()})
    row = ResultRow(
        method, "pocket", data, "domain-shift", target, "all", seed, 5, n, float(right.mean()), validation=0.5
    )
    write_results(folder, [row])
    (folder / "config.yaml").write_text(yaml.safe_dump({"method": method, "seed": seed, "steps": 5}))


def test_the_interval_of_a_share_is_the_binomial_one() -> None:
    generator = np.random.default_rng(0)
    right = (generator.random(400) < 0.3).astype(float)
    p = right.mean()
    e = bootstrap([(np.arange(400), right, np.ones(400))])
    error = np.sqrt(p * (1 - p) / 400)
    assert e.value == pytest.approx(p)
    assert e.error == pytest.approx(error, rel=0.06)
    assert (e.low, e.high) == pytest.approx((p - 1.96 * error, p + 1.96 * error), abs=0.006)
    assert e.detectable == pytest.approx(2.8 * error, rel=0.06)


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    inside = 0
    for i in range(200):
        value = generator.normal(0.1, 1, 60)
        e = bootstrap([(np.arange(60), value, np.ones(60))], seed=i, draws=400)
        inside += e.low <= 0.1 <= e.high
    assert 0.89 <= inside / 200 <= 0.99


def test_views_of_one_unit_count_as_one() -> None:
    right = (np.random.default_rng(2).random(50) < 0.5).astype(float)
    one = bootstrap([(np.arange(50), right, np.ones(50))])
    eight = bootstrap([(np.arange(50), 8 * right, np.full(50, 8.0))])
    assert eight == one


def test_a_unit_in_two_parts_is_drawn_once() -> None:
    value = np.random.default_rng(3).normal(size=100)
    part = (np.arange(100), value, np.ones(100))
    once, together = bootstrap([part]), bootstrap([part, part])
    apart = bootstrap([part, (np.arange(100) + 1000, value, np.ones(100))])
    assert together.error == pytest.approx(once.error)
    assert apart.error == pytest.approx(once.error / 2**0.5, rel=0.1)


def test_pairing_leaves_what_differs(tmp_path: Path) -> None:
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
    separate = next(m for m in measured(find_runs(tmp_path)) if m.label == "erm")
    assert separate.estimate.error > 1.8 * found.estimate.error
    (turned,) = differences(find_runs(tmp_path), "alignclip")
    assert turned.estimate.value == -found.estimate.value
    lines = list(csv.DictReader(io.StringIO(to_csv([found]))))
    assert float(lines[0]["difference"]) == pytest.approx(6.0) and lines[0]["baseline"] == "erm"


def test_pictograms_count_concepts_and_average_seeds_and_targets(tmp_path: Path) -> None:
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


def test_a_baseline_that_is_not_there_is_named(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "erm", np.ones(20, bool))
    with pytest.raises(UserError, match="--baseline clipood: no such line; there are erm"):
        differences(find_runs(tmp_path), "clipood")


def test_published_numbers_belong_to_what_the_package_has() -> None:
    methods, data = {m.name for m in all_methods()}, {*declarations(), "imagenet-shift"}
    for p in published():
        assert 0 < float(p.percent) <= 100 and p.protocol in list_protocols()
        assert p.method in methods
        assert p.data in data or p.data.startswith("mean-of-"), p.data
    table = [p for p in published() if p.table == "4" and p.method == "alignclip"]
    assert [p.percent for p in table] == [
        *("83.5", "70.1", "91.0", "91.2"),
        *("75.7", "55.7", "71.1", "19.2", "84.6", "70.0"),
    ]


def test_published_stands_beside_measured_and_apart_from_it(tmp_path: Path) -> None:
    generator = np.random.default_rng(6)
    for method in ("erm", "alignclip"):
        write_run(tmp_path / method, method, generator.random(40) < 0.5, data="vlcs", target="SUN09")
    report = write_report(tmp_path, tmp_path / "report", pictures=0)
    text = report.markdown.read_text()
    assert "| vlcs, domain-shift, SUN09 | all | alignclip | pocket |" in text
    assert "| 80.9 | CLIP ViT-B/16 |" in text and "80.9" not in report.csv.read_text()
    assert "## Differences" in text and "alignclip - erm" in text
    assert report.differences.read_text().count("\n") == 2
    assert (tmp_path / "report" / "pictures" / "bars-1.png").is_file()
    assert (tmp_path / "report" / "pictures" / "shift-1.png").is_file()
    assert published_beside([{"method": "erm", "backbone": "pocket", "test": "all", "data": "mine"}]) == []
