from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from clipalign.commands.report import run_report, write_report
from clipalign.core.errors import UserError
from clipalign.evaluation.results import ResultRow, write_results
from clipalign.report.collect import find_runs
from clipalign.report.curves import loss_curve, mean_curve, plot_curves, validation_curve
from clipalign.report.style import line_styles


def write_run(
    folder: Path, method: str, accuracy: float, seed: int = 0, metrics: bool = True, **options: Any
) -> None:
    """Write a run folder as `clipalign train` does, without weights."""
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
            n=1000,
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


class Page(HTMLParser):
    """Collects the links of a page and its tags; closing tags must match."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.open: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [value or "" for name, value in attrs if name in ("src", "href")]
        self.tags.add(tag)
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
    # A test set of two domains has accuracies by domain.
    assert "| run: test | noto | twemoji |" in text
    for link in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text):
        assert (report.markdown.parent / link).is_file()
    assert "curves-1.png" in text


def test_html_loads_nothing_and_escapes_the_title(runs: Path) -> None:
    html = write_report(runs, title="Three <runs>").html.read_text(encoding="utf-8")
    assert "Three &lt;runs&gt;" in html and "<runs>" not in html
    page = Page()
    page.feed(html)
    assert page.open == []
    assert page.loads and all(load.startswith("data:image/png;base64,") for load in page.loads)
    assert "http" not in html and "prefers-color-scheme: dark" in html


def test_html_escapes_markup_from_run_files(tmp_path: Path) -> None:
    attack = '<script>alert("1")</script>'
    names = {"method": f"erm{attack}", "target": f"noto{attack}", "test": f"all{attack}", "data": attack}
    fields = {
        "backbone": "pocket",
        "protocol": "domain-shift",
        "seed": 0,
        "steps": 5,
        "n": 10,
        "accuracy": 0.5,
    }
    facts = {"command": attack, "version": attack, "split_hash": attack, "reason": attack, "zeroshot": 0.25}
    domains = {f"noto{attack}": 0.5, f"twemoji{attack}": 0.25}
    row = ResultRow.from_dict({**fields, **names, **facts, "domain_accuracy": domains})
    folder = tmp_path / "runs" / "<script>" / "a"
    folder.mkdir(parents=True)
    write_results(folder, [row, replace(row, test="new", accuracy=None)])
    html = write_report(tmp_path / "runs", tmp_path / "report", title=attack).html.read_text(encoding="utf-8")
    page = Page()
    page.feed(html)
    assert "script" not in page.tags and page.open == []
    assert html.count("&lt;script&gt;alert(&#34;1&#34;)&lt;/script&gt;") > 10


def test_csv_holds_every_measured_cell(runs: Path) -> None:
    report = write_report(runs)
    with report.csv.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert {line["column"] for line in lines} == {"all", "base", "new", "h"}
    assert len(lines) == 8


def test_report_warns_about_a_single_seed(tmp_path: Path) -> None:
    write_run(tmp_path / "a", "erm", 0.4)
    text = write_report(tmp_path).markdown.read_text(encoding="utf-8")
    assert "Another seed would move it" in text
    write_run(tmp_path / "b", "erm", 0.5, seed=1)
    text = write_report(tmp_path, overwrite=True).markdown.read_text(encoding="utf-8")
    assert "Another seed would move it" not in text


def test_report_of_an_untrained_run_has_no_curves(tmp_path: Path) -> None:
    write_run(tmp_path / "z", "zeroshot", 0.3)
    text = write_report(tmp_path).markdown.read_text(encoding="utf-8")
    assert "## Curves" not in text and "## Forgetting" not in text and "## Accuracy" in text


def test_lines_are_labelled_by_options_that_change_numbers(tmp_path: Path) -> None:
    write_run(tmp_path / "dv", "alignclip", 0.4, guide="dv", workers=0)
    write_run(tmp_path / "vvv", "alignclip", 0.5, guide="vvv", workers=2)
    text = write_report(tmp_path).markdown.read_text(encoding="utf-8")
    assert "alignclip (guide dv)" in text and "alignclip (guide vvv)" in text and "workers" not in text


def test_report_command_prints_tables_and_files(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_report([str(runs), "--out", str(runs / "here"), "--pictures", "0"])
    out = capsys.readouterr().out
    assert "42.0 ± 2.8" in out and "report.html" in out
    assert (runs / "here" / "report.html").is_file()


def test_find_runs_puts_baselines_first(runs: Path) -> None:
    assert [run.name for run in find_runs(runs)] == ["zeroshot", "alignclip-0", "alignclip-1"]


@pytest.mark.parametrize("arguments", [["nowhere"], ["empty"], ["full", "--pictures", "-1"]])
def test_invalid_input_raises_and_writes_nothing(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "empty").mkdir()
    write_run(tmp_path / "full" / "a", "erm", 0.4)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError):
        run_report([str(tmp_path / arguments[0]), *arguments[1:]])
    assert sorted(tmp_path.rglob("*")) == before


def test_existing_report_is_kept_without_overwrite(runs: Path) -> None:
    write_report(runs)
    with pytest.raises(UserError, match="--out"):
        write_report(runs)
    write_report(runs, overwrite=True)


def test_curves_sum_loss_terms_and_average_seeds() -> None:
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
    styles = line_styles(["a", "b"])
    assert plot_curves({}, styles) is None and plot_curves({"a": [[]]}, styles) is None
    figure = plot_curves({"a": [metrics, metrics], "b": [later]}, styles, zero_shot=0.1)
    assert figure is not None and len(figure.axes) == 2
    # Two seeds, their mean, the other run, and zero-shot.
    assert len(figure.axes[1].lines) == 5
