from __future__ import annotations

import csv
import io
import statistics
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from clipalign.evaluation.metrics import Field
from clipalign.evaluation.results import ResultRow
from clipalign.report.accuracy import accuracy_tables
from clipalign.report.forgetting import forgetting
from clipalign.report.html import table_html
from clipalign.report.markdown import table_markdown
from clipalign.report.metric_table import metric_table
from clipalign.report.render import print_tables, tables_csv
from clipalign.report.result_table import Cell, ResultTable
from clipalign.report.rows import ReportRow


def row(
    method: str = "erm",
    accuracy: float | None = 0.5,
    run: str = "",
    settings: dict[str, object] | None = None,
    **changes: Any,
) -> ReportRow:
    fields: dict[str, Any] = {
        "method": method,
        "backbone": "pocket",
        "data": "pictograms",
        "protocol": "domain-shift",
        "target": "noto",
        "test": "all",
        "seed": 0,
        "steps": 120,
        "n": 980,
        "accuracy": accuracy,
        "h": None,
        "classes": 245,
        "split_hash": "a" * 64,
        "lr": 1e-5,
        "command": f"clipalign train --seed {changes.get('seed', 0)}",
        "seconds": 1.5,
    }
    return ReportRow(ResultRow(**fields | changes), run, settings or {})


def wild(method: str, base: float, new: float, **changes: Any) -> list[ReportRow]:
    h = 2 * base * new / (base + new)
    shared = {"protocol": "in-the-wild", "h": h} | changes
    tests = {"all": (base + new) / 2, "base": base, "new": new}
    return [row(method, accuracy, test=test, **shared) for test, accuracy in tests.items()]


def printed(table: ResultTable) -> dict[tuple[str, ...], list[str]]:
    return {line.labels: [str(cell) if cell else "" for cell in line.cells] for line in table.lines}


def test_cell_is_mean_and_sample_deviation_over_seeds_in_percent() -> None:
    values = [0.40, 0.42, 0.47]
    (table,) = accuracy_tables(row(accuracy=a, seed=s) for s, a in enumerate(values))
    assert table.columns == ("all",) and table.heads == ("target", "method")
    expected = f"{100 * statistics.mean(values):.1f} ± {100 * statistics.stdev(values):.1f}"
    assert printed(table) == {("noto", "erm"): [expected]}
    assert table.lines[0].seeds == "3"
    assert any("standard deviation" in note for note in table.notes)


def test_cell_of_one_run_has_no_deviation() -> None:
    (table,) = accuracy_tables([row(accuracy=0.4123)])
    assert printed(table) == {("noto", "erm"): ["41.2"]}
    assert not any("standard deviation" in note for note in table.notes)


def test_rows_of_different_splits_get_separate_lines() -> None:
    rows = [row(accuracy=0.4, seed=0), row(accuracy=0.8, seed=1, split_hash="b" * 64)]
    (table,) = accuracy_tables(rows)
    assert [line.labels[1][:11] for line in table.lines] == ["erm (split "] * 2
    assert sorted(printed(table).values()) == [["40.0"], ["80.0"]]
    assert any("not comparable" in note for note in table.notes)


def test_rows_of_different_splits_get_separate_lines_with_targets_as_columns() -> None:
    rows = [row(accuracy=0.4), row(accuracy=0.6, target="twemoji", split_hash="b" * 64)]
    rows.append(row("clipood", accuracy=0.9, split_hash="c" * 64))
    (table,) = accuracy_tables(rows)
    assert table.columns == ("noto", "twemoji", "mean")
    lines = {
        label[0].split(" (split")[0]: cells for label, cells in printed(table).items() if "split" in label[0]
    }
    assert lines == {"clipood": ["90.0", "", ""], "erm": ["40.0", "", ""]}
    # The other target has one split only.
    assert printed(table)["erm",] == ["", "60.0", ""]


@pytest.mark.parametrize("change", [{"label_space": "other"}, {"n": 490}])
def test_rows_of_different_label_spaces_or_sizes_get_separate_lines(change: dict[str, Any]) -> None:
    (table,) = accuracy_tables([row(accuracy=0.4), row("zeroshot", accuracy=0.8, **change)])
    assert all("(split " in line.labels[1] for line in table.lines)


@pytest.mark.parametrize(("name", "value", "label"), [("steps", 300, "steps 300"), ("lr", 1e-4, "lr 0.0001")])
def test_rows_of_different_settings_get_separate_lines(name: str, value: Any, label: str) -> None:
    (table,) = accuracy_tables(
        [row(accuracy=0.4), row(accuracy=0.6, seed=1, **{name: value}), row("zeroshot")]
    )
    labels = [line.labels[1] for line in table.lines]
    assert f"erm ({label})" in labels and len(labels) == 3
    # A method whose runs agree is named plainly.
    assert "zeroshot" in labels


def test_rows_of_different_run_options_get_separate_lines() -> None:
    rows = [row("alignclip", a, settings={"guide": g, "tau": None}) for g, a in (("dv", 0.4), ("vvv", 0.6))]
    (table,) = accuracy_tables(rows)
    assert printed(table) == {
        ("noto", "alignclip (guide dv)"): ["40.0"],
        ("noto", "alignclip (guide vvv)"): ["60.0"],
    }


def test_zeroshot_rows_ignore_training_settings() -> None:
    rows = [row("zeroshot", 0.3, steps=0, lr=lr, seed=seed) for seed, lr in enumerate((1e-5, 1e-4))]
    (table,) = accuracy_tables(rows)
    assert printed(table) == {("noto", "zeroshot"): ["30.0 ± 0.0"]}


def test_identical_rows_of_two_runs_count_once() -> None:
    rows = [row("zeroshot", 0.3, run="a", command="x"), row("zeroshot", 0.3, run="b", command="y")]
    (table,) = accuracy_tables(rows)
    assert table.lines[0].seeds == "1"


def test_differing_rows_of_one_seed_are_labelled_by_folder() -> None:
    (table,) = accuracy_tables([row(accuracy=0.3, run="a"), row(accuracy=0.4, run="b")])
    assert printed(table) == {("noto", "erm (a)"): ["30.0"], ("noto", "erm (b)"): ["40.0"]}


def test_in_the_wild_table_groups_lines_by_target_and_has_harmonic_mean() -> None:
    rows = wild("erm", 0.4, 0.2, target="noto") + wild("erm", 0.6, 0.3, target="twemoji", split_hash="b" * 64)
    rows += wild("zeroshot", 0.3, 0.3, target="noto")
    (table,) = accuracy_tables(rows)
    assert table.columns == ("all", "base", "new", "h")
    lines = printed(table)
    assert lines["noto", "erm"] == ["30.0", "40.0", "20.0", "26.7"]
    assert lines["mean", "erm"] == ["37.5", "50.0", "25.0", "33.3"]
    # zeroshot lacks a target, so it has no mean over targets.
    assert lines["mean", "zeroshot"] == ["", "", "", ""]
    assert [line.labels for line in table.lines][:2] == [("noto", "zeroshot"), ("noto", "erm")]


def test_mean_over_targets_averages_within_each_seed() -> None:
    # Opposite changes of two targets cancel in each seed's mean: its deviation is 0, not theirs.
    values = {("noto", 0): 0.4, ("noto", 1): 0.6, ("twemoji", 0): 0.6, ("twemoji", 1): 0.4}
    (table,) = accuracy_tables(
        row(accuracy=a, target=t, seed=s, split_hash=t) for (t, s), a in values.items()
    )
    assert printed(table) == {("erm",): ["50.0 ± 14.1", "50.0 ± 14.1", "50.0 ± 0.0"]}


def test_mean_over_targets_skips_seeds_without_all_targets() -> None:
    rows = [row(accuracy=0.2), row(accuracy=0.4, target="twemoji"), row(accuracy=1.0, seed=1)]
    (table,) = accuracy_tables(rows)
    assert printed(table)["erm",][-1] == "30.0"


def test_rows_of_different_data_protocol_or_backbone_get_separate_tables() -> None:
    rows = [
        row(),
        row(protocol="base-to-new", test="new"),
        row(backbone="ViT-B-16:openai"),
        row(data="photos"),
    ]
    titles = [table.title for table in accuracy_tables(rows)]
    assert len(set(titles)) == 4
    assert "pictograms, domain-shift, ViT-B-16:openai" in titles


def test_rows_without_protocol_have_one_column_per_domain() -> None:
    rows = [
        row("zeroshot", a, protocol=None, target=None, test=d) for d, a in (("noto", 0.2), ("twemoji", 0.3))
    ]
    (table,) = accuracy_tables(rows)
    assert table.heads == ("method",) and table.columns == ("noto", "twemoji")
    assert printed(table) == {("zeroshot",): ["20.0", "30.0"]}


def test_no_rows_give_no_tables() -> None:
    assert accuracy_tables([]) == []


def example_tables() -> list[ResultTable]:
    rows = (
        wild("zeroshot", 0.2, 0.2)
        + wild("al<ign|clip", 0.3, 0.2, seed=0)
        + wild("al<ign|clip", 0.34, 0.1, seed=1)
    )
    return accuracy_tables(rows)


def test_markdown_prints_only_significant_best_cells_in_bold() -> None:
    (table,) = example_tables()
    lines = table_markdown(table).splitlines()
    widths = {line.replace("\\|", "").count("|") for line in lines[:4]}
    assert widths == {8}
    # Base: 32.0 against 20.0 of 980 images. New: 20.0 against 15.0 ± 7.1 of two seeds, which is noise.
    assert "**32.0 ± 2.8**" in lines[3] and lines[3].count("**") == 2
    assert "20.0" in lines[2] and "**" not in lines[2]
    assert "al<ign\\|clip" in lines[3]


def test_html_escapes_labels() -> None:
    (table,) = example_tables()
    html = table_html(table)
    assert "al&lt;ign|clip" in html and "<ign" not in html
    assert html.count('class="number best"') == 1


def test_csv_holds_shares_in_percent() -> None:
    lines = list(csv.DictReader(io.StringIO(tables_csv(example_tables()))))
    base = next(x for x in lines if x["column"] == "base" and x["method"] == "al<ign|clip")
    assert float(base["mean"]) == pytest.approx(32.0) and base["unit"] == "%" and base["seeds"] == "2"
    assert float(base["std"]) == pytest.approx(2.8284, abs=1e-3)
    assert next(x for x in lines if x["method"] == "zeroshot")["std"] == ""


def test_csv_holds_values_of_other_units_as_they_are_stored() -> None:
    values = [{"nll": 0.2, "top5": 0.2}, {"nll": 0.4, "top5": 0.4}]
    rows = [row("erm", 0.5, seed=seed, extra=extra) for seed, extra in enumerate(values)]
    fields = [Field("nll", "NLL", unit="nats", digits=6), Field("top5", "top-5")]
    table = metric_table("further metrics", rows, fields)
    nll, top5 = csv.DictReader(io.StringIO(tables_csv([table])))
    assert (nll["column"], nll["mean"], nll["std"], nll["unit"]) == (
        "NLL (nats)",
        "0.300000",
        "0.141421",
        "nats",
    )
    assert (top5["column"], top5["mean"], top5["std"], top5["unit"]) == ("top-5", "30.0000", "14.1421", "%")
    assert not any("percent" in head for head in nll)


def test_narrow_terminal_prints_every_number() -> None:
    console = Console(width=60, record=True, file=io.StringIO())
    print_tables(example_tables(), console)
    text = console.export_text()
    for number in ("32.0 ± 2.8", "15.0 ± 7.1", "20.0"):
        assert number in text


def test_forgetting_is_change_from_zero_shot_on_new_classes() -> None:
    rows = wild("erm", 0.5, 0.22) + wild("erm", 0.5, 0.24, seed=1) + wild("alignclip", 0.5, 0.33)
    rows = [
        replace(r, result=replace(r.result, zeroshot=0.3)) if r.result.test == "new" else r for r in rows
    ] + wild("zeroshot", 0.2, 0.3)
    found = {item.label: item for item in forgetting(rows)}
    assert list(found) == ["erm", "alignclip"]
    assert found["erm"].after == pytest.approx(0.23) and found["erm"].before == pytest.approx(0.30)
    assert found["erm"].seeds == 2
    assert "forgot 7.0 points" in str(found["erm"]) and "gained 3.0 points" in str(found["alignclip"])


def test_forgetting_of_equal_accuracies_says_nothing_was_forgotten() -> None:
    (found,) = forgetting([row(accuracy=0.3, zeroshot=0.3, test="new")])
    assert "forgot nothing" in str(found)


def test_forgetting_is_empty_without_zero_shot_accuracy() -> None:
    assert forgetting([row("zeroshot"), row("erm")]) == []


def test_unscored_row_prints_dash_and_reason() -> None:
    rows = [row(accuracy=0.4, test="base"), row("linear-probe", accuracy=0.5, test="base")]
    rows += [row(accuracy=0.3, test="new", zeroshot=0.3)]
    rows += [
        row("linear-probe", accuracy=None, test="new", reason="its head knows its own classes", zeroshot=0.3)
    ]
    (table,) = accuracy_tables(rows)
    assert printed(table)["noto", "linear-probe"] == ["50.0", ""]
    assert any("linear-probe: its head knows" in note for note in table.notes)
    assert "| noto | linear-probe | **50.0** | – | 1 |" in table_markdown(table)
    assert [item.label for item in forgetting(rows)] == ["erm"]


def test_best_requires_two_standard_errors() -> None:
    # The standard error of 1000 images at 50 % is 1.6 points; that of a difference 2.2.
    (far,) = accuracy_tables([row(accuracy=0.55, n=1000), row("alignclip", accuracy=0.50, n=1000)])
    (near,) = accuracy_tables([row(accuracy=0.54, n=1000), row("alignclip", accuracy=0.50, n=1000)])
    assert [far.best(line, 0) for line in far.lines] == [True, False]
    assert [near.best(line, 0) for line in near.lines] == [False, False]
    assert any(note.startswith("Bold:") for note in far.notes)
    assert not any(note.startswith("Bold:") for note in near.notes)


@pytest.mark.parametrize(
    ("higher_is_better", "low_wins", "high_wins"),
    [(True, False, True), (False, True, False), (None, False, False)],
)
def test_cell_exceeds_in_the_better_direction_only(
    higher_is_better: bool | None, low_wins: bool, high_wins: bool
) -> None:
    low, high = (Cell(mean, 0.01, 2, unit="nats", higher_is_better=higher_is_better) for mean in (0.2, 0.4))
    assert (low.exceeds(high), high.exceeds(low)) == (low_wins, high_wins)
    assert not low.exceeds(low)


def test_best_counts_drawings_rather_than_views() -> None:
    rows = [row(m, a, n=8000, rows=1000) for m, a in (("erm", 0.54), ("alignclip", 0.50))]
    (table,) = accuracy_tables(rows)
    assert not any(table.best(line, 0) for line in table.lines)


def test_best_needs_a_rival() -> None:
    (table,) = accuracy_tables([row()])
    assert not table.best(table.lines[0], 0)


def test_variance_of_cell_adds_seeds_and_sampling() -> None:
    cell = Cell.of([0.4, 0.6], sampling=0.01)
    assert cell.variance == pytest.approx(0.02 / 2 + 0.01)
    assert Cell.of([0.4]).variance == 0


def test_label_names_the_recipe_instead_of_the_options_that_it_sets() -> None:
    settings = {"optimizer": "adamw", "steps": 600}
    rows = [
        row(recipe="published", lr=5e-5, settings={**settings, "optimizer": "adam"}),
        row(recipe="common", lr=1e-4, settings=settings),
    ]
    (table,) = accuracy_tables(rows)
    assert {line.labels[1] for line in table.lines} == {"erm (recipe published)", "erm (recipe common)"}
    (table,) = accuracy_tables([*rows, row(recipe="common", lr=1e-3, settings=settings)])
    assert "erm (recipe common, lr 0.001)" in {line.labels[1] for line in table.lines}


def test_notes_name_the_recipe_and_the_options_that_differ_from_it() -> None:
    (table,) = accuracy_tables([row(recipe="common"), row("coop", recipe="common")])
    assert "Recipe: common." in table.notes
    (table,) = accuracy_tables(
        [row(recipe="common"), row("coop", recipe="published", recipe_changes="lr, steps")]
    )
    assert "Recipes: erm: common; coop: published except lr, steps." in table.notes


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"names": "plain"}, {"zeroshot (names paper)", "zeroshot (names plain)"}),
        ({"pooling": "patches"}, {"zeroshot (pooling class)", "zeroshot (pooling patches)"}),
        ({"names": "paper", "pooling": "class"}, {"zeroshot"}),
    ],
)
def test_zero_shot_rows_with_different_names_or_pooling_get_separate_lines(
    settings: dict[str, object], expected: set[str]
) -> None:
    rows = [row("zeroshot", 0.4, steps=0, lr=None), row("zeroshot", 0.4, steps=0, lr=None, settings=settings)]
    (table,) = accuracy_tables(rows)
    assert {line.labels[1] for line in table.lines} == expected
    evaluated = row("zeroshot", 0.4, steps=0, lr=None, extra=settings)
    if "names" in settings:  # an evaluation without a run stores them in its rows
        (table,) = accuracy_tables([rows[0], evaluated])
        assert {line.labels[1] for line in table.lines} == expected


def test_zero_shot_rows_with_different_interpolation_get_separate_lines() -> None:
    rows = [
        row("zeroshot", accuracy, steps=0, lr=None, recipe=recipe, extra={"interpolation": kind})
        for accuracy, recipe, kind in ((0.4, "published", "bicubic"), (0.5, "common", "bilinear"))
    ]
    (table,) = accuracy_tables(rows)
    expected = {"zeroshot (interpolation bicubic)", "zeroshot (interpolation bilinear)"}
    assert {line.labels[1] for line in table.lines} == expected
    (table,) = accuracy_tables([rows[0], replace(rows[0], result=replace(rows[0].result, recipe="common"))])
    assert [line.labels[1] for line in table.lines] == ["zeroshot"]


def test_single_seed_of_a_metric_without_sampling_error_is_not_bold() -> None:
    cells = Cell(4.0, None, 1, unit="dims"), Cell(9.0, None, 1, unit="dims")
    assert not cells[1].exceeds(cells[0]) and not cells[0].exceeds(cells[1])
    assert Cell(9.0, 0.1, 3).exceeds(Cell(4.0, 0.1, 3)) and not Cell(9.0, 0.1, 3).exceeds(Cell(4.0, None, 1))
