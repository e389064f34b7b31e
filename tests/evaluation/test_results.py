from __future__ import annotations

import json
from pathlib import Path

import pytest

from clipalign.core.errors import UserError
from clipalign.evaluation.metrics.harmonic_mean import harmonic_mean
from clipalign.evaluation.results import ResultRow, read_results, write_results

ROW = ResultRow(
    method="erm",
    backbone="pocket",
    data="pictograms",
    protocol="in-the-wild",
    target="noto",
    test="new",
    seed=0,
    steps=3,
    n=12,
    accuracy=0.25,
    h=0.3,
    domain_accuracy={"noto": 0.25},
    extra={"later": [1, 2]},
)


def test_rows_are_read_back_equal(tmp_path: Path) -> None:
    write_results(tmp_path, [ROW, ROW])
    assert read_results(tmp_path) == [ROW, ROW] == read_results(tmp_path / "results.jsonl")


def test_fields_and_extra_are_at_top_level(tmp_path: Path) -> None:
    write_results(tmp_path, [ROW])
    line = json.loads((tmp_path / "results.jsonl").read_text())
    wanted = [
        "method",
        "backbone",
        "data",
        "protocol",
        "target",
        "test",
        "seed",
        "steps",
        "n",
        "accuracy",
        "h",
    ]
    assert all(name in line for name in wanted)
    assert line["later"] == [1, 2] and "extra" not in line


def test_harmonic_mean_of_two_accuracies() -> None:
    assert harmonic_mean(0.8, 0.6) == pytest.approx(0.96 / 1.4)
    assert harmonic_mean(0, 0) == 0


def test_invalid_results_raise(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not finished"):
        read_results(tmp_path)
    (tmp_path / "results.jsonl").write_text('{"method": "erm"}\n')
    with pytest.raises(UserError, match="line 1"):
        read_results(tmp_path)
