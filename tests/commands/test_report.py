from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from clipalign.commands.report import run_report, write_report
from clipalign.core.errors import UserError
from clipalign.report.collect import find_runs
from clipalign.report.curves import loss_curve, mean_curve, plot_curves, validation_curve
from clipalign.runs.results import ResultRow, write_results


def write_run(
    folder: Path, method: str, accuracy: float, seed: int = 0, metrics: bool = True, **options: Any
) -> None:
    """A run folder as `clipalign train` leaves it, but for the weights."""
    folder.mkdir(parents=True)
    steps = 0 if method == "zeroshot" else 20
    rows = [
        ResultRow(
            method=method,
            backbone="pocket",
            data="pictograms",
            protocol="in-the-wild",
            target="noto",
            test=test,
            seed=seed,
            steps=steps,
            n=100,
            accuracy=accuracy + change,
            h=accuracy,
            top5=0.9,
            domain_accuracy={"noto": accuracy, "twemoji": accuracy / 2} if test == "all" else {},
            classes=256,
            split_hash="c0ffee" * 10,
            zeroshot=0.25 if test == "new" and steps else None,
            validation=0.5,
            command=f"clipalign train --method {method} --seed {seed}",
            version="0.1.0",
            seconds=12.3,
        )
        for test, change in (("all", 0.0), ("base", 0.1), ("new", -0.1))
    ]
    write_results(folder, rows)
    content = {"method": method, "seed": seed, "steps": 20, **options, "record": {"class_names": ["a"]}}
    (folder / "config.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    if metrics and steps:
        lines = [
            {"step": 10, "loss_ce": 2.0, "loss_al": 0.5, "al": 0.5, "lr": 1e-5},
            {"step": 20, "loss_ce": 1.0, "loss_al": 0.25, "validation_accuracy": 0.5, "validation_loss": 9.0},
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "metrics.jsonl").write_text(text, encoding="utf-8")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    write_run(tmp_path / "alignclip-0", "alignclip", 0.40)
    write_run(tmp_path / "alignclip-1", "alignclip", 0.44, seed=1)
    write_run(tmp_path / "zeroshot", "zeroshot", 0.30)
    return tmp_path


class Links(HTMLParser):
    """What a page would load, and its open tags."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_report_holds_tables_curves_and_commands(runs: Path) -> None:
    report = write_report(runs, title="Three <runs>")
    assert report.markdown == runs / "report" / "report.md"
    text = report.markdown.read_text(encoding="utf-8")
    assert text.startswith("# Three <runs>\n")
    assert "| noto | alignclip | **42.0 ± 2.8** |" in text
    assert "clipalign train --method alignclip --seed 1" in text
    assert "alignclip gained 7.0 points" in text
    assert "test vehicle" in text
    # Two domains in one test set: their accuracies are shown.
    assert "| run: test | noto | twemoji |" in text
    for link in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text):
        assert (report.markdown.parent / link).is_file()
    assert "curves-1.png" in text


def test_html_stands_alone(runs: Path) -> None:
    html = write_report(runs, title="Three <runs>").html.read_text(encoding="utf-8")
    assert "Three &lt;runs&gt;" in html and "<runs>" not in html
    page = Links()
    page.feed(html)
    assert page.open == []
    assert page.loads and all(load.startswith("data:image/png;base64,") for load in page.loads)
    assert "http" not in html and "prefers-color-scheme: dark" in html


def test_csv_can_be_read_back(runs: Path) -> None:
    report = write_report(runs)
    with report.csv.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert {line["column"] for line in lines} == {"all", "base", "new", "h"}
    assert len(lines) == 8


def test_one_seed_is_said(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "erm", 0.4)
    text = write_report(tmp_path).markdown.read_text(encoding="utf-8")
    assert "Another seed would move it" in text
    write_run(tmp_path / "b", "erm", 0.5, seed=1)
    text = write_report(tmp_path, overwrite=True).markdown.read_text(encoding="utf-8")
    assert "Another seed would move it" not in text


def test_an_untrained_run_needs_no_curves(tmp_path: Path) -> None:
    write_run(tmp_path / "z", "zeroshot", 0.3)
    text = write_report(tmp_path).markdown.read_text(encoding="utf-8")
    assert "## Curves" not in text and "## What was forgotten" not in text


def test_options_of_runs_tell_lines_apart(tmp_path: Path) -> None:
    write_run(tmp_path / "dv", "alignclip", 0.4, guide="dv", workers=0)
    write_run(tmp_path / "vvv", "alignclip", 0.5, guide="vvv", workers=2)
    text = write_report(tmp_path).markdown.read_text(encoding="utf-8")
    assert "alignclip (guide dv)" in text and "alignclip (guide vvv)" in text and "workers" not in text


def test_command_line_prints_the_table(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_report([str(runs), "--out", str(runs / "here"), "--pictures", "0"])
    out = capsys.readouterr().out
    assert "42.0 ± 2.8" in out and "report.html" in out
    assert (runs / "here" / "report.html").is_file()


def test_find_runs_puts_baselines_first(runs: Path) -> None:
    assert [run.name for run in find_runs(runs)] == ["zeroshot", "alignclip-0", "alignclip-1"]


@pytest.mark.parametrize("arguments", [["nowhere"], ["empty"], ["full", "--pictures", "-1"]])
def test_bad_input_is_one_error(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "empty").mkdir()
    write_run(tmp_path / "full" / "a", "erm", 0.4)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError):
        run_report([str(tmp_path / arguments[0]), *arguments[1:]])
    assert sorted(tmp_path.rglob("*")) == before


def test_a_report_is_not_overwritten_unasked(runs: Path) -> None:
    write_report(runs)
    with pytest.raises(UserError, match="--out"):
        write_report(runs)
    write_report(runs, overwrite=True)


def test_curves() -> None:
    metrics = [
        {"step": 5, "validation_accuracy": 0.5},
        {"step": 10, "loss_a": 1.0, "loss_b": 2.0, "a": 7.0},
        {"step": 20, "loss_a": None, "loss_b": 2.0, "validation_accuracy": 0.75},
    ]
    assert (loss_curve(metrics).steps, loss_curve(metrics).values) == ((10,), (3.0,))
    assert validation_curve(metrics).values == (50.0, 75.0)
    later = [{"step": 20, "validation_accuracy": 0.25}]
    mean = mean_curve([validation_curve(metrics), validation_curve(later)])
    assert (mean.steps, mean.values) == ((20,), (50.0,))
    assert plot_curves({}) is None and plot_curves({"a": [[]]}) is None
    figure = plot_curves({"a": [metrics, metrics], "b": [later]}, zero_shot=0.1)
    assert figure is not None and len(figure.axes) == 2
    # Two seeds in thin, their mean, the other run, and zero-shot.
    assert len(figure.axes[1].lines) == 5
