from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from clipalign.commands.report import run_report
from clipalign.data.captions.sets import caption_sets
from clipalign.report.render import print_tables
from clipalign.report.retrieval import COLUMNS, all_tables, published_recalls, recall_tables, recalls_beside
from clipalign.report.table import Table
from clipalign.report.tables import make_tables
from clipalign.runs.results import ResultRow, write_results


def numbers(value: float, *prefixes: str) -> dict[str, float]:
    """Recalls that tell field from field: value, then a little more for each."""
    return {f"{p}{name}": value + 0.01 * i for p in ("", *prefixes) for i, name in enumerate(COLUMNS)}


def row(method: str, value: float, *prefixes: str, **changes: Any) -> ResultRow:
    extra = {**numbers(value, *prefixes), "texts": 240, "cut": 0} | changes.pop("extra", {})
    fields: dict[str, Any] = {
        "method": method,
        "backbone": "pocket",
        "data": "pictoscenes",
        "protocol": "retrieval",
        "target": None,
        "test": "long",
        "seed": 0,
        "steps": 0 if method == "zeroshot" else 20,
        "n": 120,
        "accuracy": None,
        "split_hash": "c0ffee",
        "command": f"clipalign train --method {method}",
    }
    return ResultRow(**(fields | changes), extra=extra)


def tables(*rows: ResultRow) -> list[Table]:
    return recall_tables(one.as_dict() for one in rows)


def shown(table: Table) -> dict[tuple[str, ...], list[str]]:
    return {line.labels: [str(cell) if cell else "" for cell in line.cells] for line in table.lines}


def test_a_line_per_test_and_method_with_means_over_seeds() -> None:
    (table,) = tables(
        row("smartclip", 0.5),
        row("smartclip", 0.6, seed=1),
        row("zeroshot", 0.3),
        row("zeroshot", 0.2, test="short"),
    )
    assert table.title == "pictoscenes, retrieval, pocket"
    assert table.columns == ("T2I R@1", "T2I R@5", "T2I R@10", "I2T R@1", "I2T R@5", "I2T R@10")
    assert list(shown(table)) == [("long", "zeroshot"), ("long", "smartclip"), ("short", "zeroshot")]
    assert shown(table)["long", "smartclip"][:2] == ["55.0 ± 7.1", "56.0 ± 7.1"]
    assert shown(table)["long", "zeroshot"][3] == "33.0"
    notes = " ".join(table.notes)
    assert "long 120 images and 240 texts; short 120 images and 240 texts" in notes
    assert "standard deviation over seeds" in notes and "Masked" not in notes


def test_masked_and_relevant_recall_stand_beside_in_lines_of_their_own() -> None:
    (table,) = tables(row("smartclip", 0.5, "masked_", "relevant_"), row("zeroshot", 0.3, "relevant_"))
    assert list(shown(table)) == [
        ("long", "zeroshot"),
        ("long", "smartclip"),
        ("long, any relevant", "zeroshot"),
        ("long, any relevant", "smartclip"),
        ("long, masked", "smartclip"),
    ]
    assert "Masked: " in " ".join(table.notes) and "Any relevant: " in " ".join(table.notes)


def test_a_narrow_terminal_shows_labels_and_numbers() -> None:
    console = Console(width=60, record=True, file=io.StringIO())
    print_tables(tables(row("smartclip", 0.5), row("smartclip", 0.6, seed=1)), console)
    text = console.export_text()
    assert "smartclip" in text and "55.0 ± 7.1" in text and "60.0 ± 7.1" in text


def test_cut_captions_are_counted() -> None:
    (table,) = tables(row("zeroshot", 0.3, extra={"cut": 17}))
    assert "17 of them longer than the window" in " ".join(table.notes)


def test_recalls_and_accuracies_are_never_in_one_table() -> None:
    classes = row("erm", 0.0, protocol="domain-shift", accuracy=0.75, test="all", target="noto")
    rows = [row("smartclip", 0.5).as_dict(), classes.as_dict()]
    assert [table.title for table in make_tables(rows)] == ["pictoscenes, domain-shift, pocket"]
    assert [table.title for table in all_tables(rows)] == [
        "pictoscenes, domain-shift, pocket",
        "pictoscenes, retrieval, pocket",
    ]
    assert "smartclip" not in str(make_tables(rows)) and "75.0" not in str(recall_tables(rows))


@pytest.mark.parametrize("change", [{"split_hash": "other"}, {"n": 60}, {"extra": {"texts": 120}}])
def test_different_tests_are_never_in_one_cell(change: dict[str, Any]) -> None:
    (table,) = tables(row("smartclip", 0.5), row("smartclip", 0.6, seed=1, **change))
    assert all("(split " in line.labels[1] for line in table.lines) and len(table.lines) == 2
    assert "not comparable" in " ".join(table.notes)


def test_runs_of_one_seed_that_disagree_are_told_apart() -> None:
    rows = [row("smartclip", value).as_dict() | {"run": name} for name, value in (("a", 0.5), ("b", 0.6))]
    (table,) = recall_tables(rows)
    assert [line.labels[1] for line in table.lines] == ["smartclip (a)", "smartclip (b)"]
    same = [row("zeroshot", 0.5).as_dict() | {"run": name} for name in "ab"]
    (table,) = recall_tables(same)
    assert [(line.labels[1], line.seeds) for line in table.lines] == [("zeroshot", "1")]


def test_a_reason_stands_below() -> None:
    (table,) = recall_tables(
        [{**row("erm", 0.1).as_dict(), **dict.fromkeys(COLUMNS), "reason": "no text tower"}]
    )
    assert table.lines == () and "Not scored, erm: no text tower." in table.notes


def test_published_recalls_name_what_can_be_measured() -> None:
    names = set(caption_sets())
    for number in published_recalls():
        assert number.data in names and number.recall in COLUMNS and 0 < float(number.percent) < 100
        test = caption_sets()[number.data].tests
        assert number.test == test and number.source and number.backbone.startswith("CLIP ViT-")
    places = [(n.source, n.data, n.test, n.method, n.backbone, n.recall) for n in published_recalls()]
    assert len(set(places)) == len(places)


def test_published_recalls_stand_beside() -> None:
    one = row("smartclip", 0.5, data="urban1k", backbone="ViT-L-14:openai")
    (_, grid) = recalls_beside([one.as_dict(), row("smartclip", 0.5).as_dict()])
    lines = grid.lines  # type: ignore[union-attr]
    assert [line[:6] for line in lines] == [
        ("urban1k", "T2I R@1", "smartclip", "ViT-L-14:openai", "50.0", "90.1"),
        ("urban1k", "I2T R@1", "smartclip", "ViT-L-14:openai", "53.0", "93.0"),
    ]
    assert recalls_beside([row("smartclip", 0.5).as_dict()]) == []


def write_run(folder: Path, rows: list[ResultRow]) -> None:
    folder.mkdir(parents=True)
    write_results(folder, rows)
    (folder / "config.yaml").write_text(yaml.safe_dump({"method": rows[0].method}), encoding="utf-8")


def test_the_report_of_retrieval_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (0, 1):
        tests = [row("smartclip", 0.5 + 0.1 * seed, "masked_", seed=seed, test=t) for t in ("long", "short")]
        write_run(tmp_path / f"smart-{seed}", tests)
    write_run(tmp_path / "zero", [row("zeroshot", 0.3)])
    written = run_report([str(tmp_path)])
    text = written.markdown.read_text(encoding="utf-8")
    assert "## Retrieval" in text and "## Accuracy" not in text and "## Every row of retrieval" in text
    assert "| long | smartclip | **55.0 ± 7.1** |" in text and "long, masked" in text
    assert "No pictures" not in text
    html = written.html.read_text(encoding="utf-8")
    assert "<h2>Retrieval</h2>" in html and "55.0 ± 7.1" in html
    cells = list(csv.DictReader(io.StringIO(written.csv.read_text(encoding="utf-8"))))
    first = next(c for c in cells if c["method"] == "smartclip" and c["target"] == "long")
    assert first["column"] == "T2I R@1" and first["mean_percent"] == "55.0000" and first["seeds"] == "2"
    assert "T2I R@10" in capsys.readouterr().out
