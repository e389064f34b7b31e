from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from clipalign.commands.report import run_report
from clipalign.evaluation.metrics import METRICS
from clipalign.evaluation.results import ResultRow, write_results
from clipalign.report.accuracy import accuracy_tables
from clipalign.report.document import Grid, Heading
from clipalign.report.published import published_sections
from clipalign.report.render import print_tables
from clipalign.report.result_table import ResultTable
from clipalign.report.retrieval import recall_tables
from clipalign.report.rows import ReportRow
from clipalign.report.tables import all_tables

COLUMNS = [field.name for field in METRICS.get("recall").fields if not field.variant]


def numbers(value: float, *prefixes: str) -> dict[str, float]:
    """Recalls by field, all different: value, then 0.01 more for each."""
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


def tables(*rows: ResultRow) -> list[ResultTable]:
    return recall_tables(map(ReportRow, rows))


def printed(table: ResultTable) -> dict[tuple[str, ...], list[str]]:
    return {line.labels: [str(cell) if cell else "" for cell in line.cells] for line in table.lines}


def test_recall_table_has_a_line_per_test_and_method_with_means_over_seeds() -> None:
    (table,) = tables(
        row("smartclip", 0.5),
        row("smartclip", 0.6, seed=1),
        row("zeroshot", 0.3),
        row("zeroshot", 0.2, test="short"),
    )
    assert table.title == "pictoscenes, retrieval, pocket"
    assert table.columns == ("T2I R@1", "T2I R@5", "T2I R@10", "I2T R@1", "I2T R@5", "I2T R@10")
    assert list(printed(table)) == [("long", "zeroshot"), ("long", "smartclip"), ("short", "zeroshot")]
    assert printed(table)["long", "smartclip"][:2] == ["55.0 ± 7.1", "56.0 ± 7.1"]
    assert printed(table)["long", "zeroshot"][3] == "33.0"
    notes = " ".join(table.notes)
    assert "long 120 images and 240 texts; short 120 images and 240 texts" in notes
    assert "standard deviation over seeds" in notes and "Masked" not in notes


def test_masked_and_relevant_recalls_get_separate_lines() -> None:
    (table,) = tables(row("smartclip", 0.5, "masked_", "relevant_"), row("zeroshot", 0.3, "relevant_"))
    assert list(printed(table)) == [
        ("long", "zeroshot"),
        ("long", "smartclip"),
        ("long, any relevant", "zeroshot"),
        ("long, any relevant", "smartclip"),
        ("long, masked", "smartclip"),
    ]
    assert "Masked: " in " ".join(table.notes) and "Any relevant: " in " ".join(table.notes)


def test_narrow_terminal_prints_labels_and_numbers() -> None:
    console = Console(width=60, record=True, file=io.StringIO())
    print_tables(tables(row("smartclip", 0.5), row("smartclip", 0.6, seed=1)), console)
    text = console.export_text()
    assert "smartclip" in text and "55.0 ± 7.1" in text and "60.0 ± 7.1" in text


def test_notes_count_truncated_captions() -> None:
    (table,) = tables(row("zeroshot", 0.3, extra={"cut": 17}))
    assert "17 of them truncated to the text window" in " ".join(table.notes)


def test_recalls_and_accuracies_get_separate_tables() -> None:
    classes = row("erm", 0.0, protocol="domain-shift", accuracy=0.75, test="all", target="noto")
    rows = [ReportRow(row("smartclip", 0.5)), ReportRow(classes)]
    assert [table.title for table in accuracy_tables(rows)] == ["pictoscenes, domain-shift, pocket"]
    assert [table.title for table in all_tables(rows)] == [
        "pictoscenes, domain-shift, pocket",
        "pictoscenes, retrieval, pocket",
    ]
    assert "smartclip" not in str(accuracy_tables(rows)) and "75.0" not in str(recall_tables(rows))


@pytest.mark.parametrize("change", [{"split_hash": "other"}, {"n": 60}, {"extra": {"texts": 120}}])
def test_rows_of_different_tests_get_separate_lines(change: dict[str, Any]) -> None:
    (table,) = tables(row("smartclip", 0.5), row("smartclip", 0.6, seed=1, **change))
    assert all("(split " in line.labels[1] for line in table.lines) and len(table.lines) == 2
    assert "not comparable" in " ".join(table.notes)


def test_differing_rows_of_one_seed_are_labelled_by_folder() -> None:
    rows = [ReportRow(row("smartclip", value), name) for name, value in (("a", 0.5), ("b", 0.6))]
    (table,) = recall_tables(rows)
    assert [line.labels[1] for line in table.lines] == ["smartclip (a)", "smartclip (b)"]
    same = [ReportRow(row("zeroshot", 0.5), name) for name in "ab"]
    (table,) = recall_tables(same)
    assert [(line.labels[1], line.seeds) for line in table.lines] == [("zeroshot", "1")]


def test_unscored_row_is_explained_in_notes() -> None:
    (table,) = tables(row("erm", 0.1, extra=dict.fromkeys(COLUMNS), reason="no text tower"))
    assert table.lines == () and "Not scored, erm: no text tower." in table.notes


def test_published_recalls_are_listed_for_the_same_data_and_method() -> None:
    one = row("smartclip", 0.5, data="urban1k", backbone="ViT-L-14:openai")
    (heading, grid) = published_sections([ReportRow(one), ReportRow(row("smartclip", 0.5))])
    assert heading == Heading("Published recalls") and isinstance(grid, Grid)
    assert [(*line[:7], line[7]) for line in grid.lines] == [
        ("urban1k, retrieval", "long", "smartclip", "ViT-L-14:openai", "T2I R@1", "50.0", "90.1", ""),
        ("urban1k, retrieval", "long", "smartclip", "ViT-L-14:openai", "I2T R@1", "53.0", "93.0", ""),
    ]
    assert published_sections([ReportRow(row("smartclip", 0.5))]) == []


def write_run(folder: Path, rows: list[ResultRow]) -> None:
    folder.mkdir(parents=True)
    write_results(folder, rows)
    (folder / "config.yaml").write_text(yaml.safe_dump({"method": rows[0].method}), encoding="utf-8")


def test_report_of_retrieval_runs_has_recalls_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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
    assert (
        first["column"] == "T2I R@1"
        and first["mean"] == "55.0000"
        and first["unit"] == "%"
        and first["seeds"] == "2"
    )
    assert "T2I R@10" in capsys.readouterr().out
