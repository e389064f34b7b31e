from __future__ import annotations

import csv
import io
import statistics
from typing import Any

import pytest
from rich.console import Console

from clipalign.report.forgetting import forgetting
from clipalign.report.render import print_tables, to_csv, to_html, to_markdown
from clipalign.report.table import Table
from clipalign.report.tables import make_tables


def row(method: str = "erm", accuracy: float = 0.5, **changes: Any) -> dict[str, Any]:
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
    return fields | changes


def wild(method: str, base: float, new: float, **changes: Any) -> list[dict[str, Any]]:
    h = 2 * base * new / (base + new)
    shared = {"protocol": "in-the-wild", "h": h} | changes
    tests = {"all": (base + new) / 2, "base": base, "new": new}
    return [row(method, accuracy, test=test, **shared) for test, accuracy in tests.items()]


def shown(table: Table) -> dict[tuple[str, ...], list[str]]:
    return {line.labels: [str(cell) if cell else "" for cell in line.cells] for line in table.lines}


def test_mean_and_sample_deviation_over_seeds_in_percent() -> None:
    values = [0.40, 0.42, 0.47]
    (table,) = make_tables(row(accuracy=a, seed=s) for s, a in enumerate(values))
    assert table.columns == ("all",) and table.heads == ("target", "method")
    expected = f"{100 * statistics.mean(values):.1f} ± {100 * statistics.stdev(values):.1f}"
    assert shown(table) == {("noto", "erm"): [expected]}
    assert table.lines[0].seeds == "3"
    assert any("standard deviation" in note for note in table.notes)


def test_one_run_has_no_deviation() -> None:
    (table,) = make_tables([row(accuracy=0.4123)])
    assert shown(table) == {("noto", "erm"): ["41.2"]}
    assert not any("standard deviation" in note for note in table.notes)


def test_different_splits_are_never_in_one_cell() -> None:
    rows = [row(accuracy=0.4, seed=0), row(accuracy=0.8, seed=1, split_hash="b" * 64)]
    (table,) = make_tables(rows)
    assert [line.labels[1][:11] for line in table.lines] == ["erm (split "] * 2
    assert sorted(shown(table).values()) == [["40.0"], ["80.0"]]
    assert any("not comparable" in note for note in table.notes)


def test_different_splits_stay_apart_where_targets_are_columns() -> None:
    rows = [row(accuracy=0.4), row(accuracy=0.6, target="twemoji", split_hash="b" * 64)]
    rows.append(row("clipood", accuracy=0.9, split_hash="c" * 64))
    (table,) = make_tables(rows)
    assert table.columns == ("noto", "twemoji", "mean")
    lines = {
        label[0].split(" (split")[0]: cells for label, cells in shown(table).items() if "split" in label[0]
    }
    assert lines == {"clipood": ["90.0", "", ""], "erm": ["40.0", "", ""]}
    # The other target has one split only.
    assert shown(table)["erm",] == ["", "60.0", ""]


@pytest.mark.parametrize("change", [{"label_space": "other"}, {"n": 490}])
def test_different_tasks_are_never_in_one_cell(change: dict[str, Any]) -> None:
    (table,) = make_tables([row(accuracy=0.4), row("zeroshot", accuracy=0.8, **change)])
    assert all("(split " in line.labels[1] for line in table.lines)


@pytest.mark.parametrize(("name", "value", "label"), [("steps", 300, "steps 300"), ("lr", 1e-4, "lr 0.0001")])
def test_settings_that_differ_make_lines_of_their_own(name: str, value: Any, label: str) -> None:
    (table,) = make_tables([row(accuracy=0.4), row(accuracy=0.6, seed=1, **{name: value}), row("zeroshot")])
    labels = [line.labels[1] for line in table.lines]
    assert f"erm ({label})" in labels and len(labels) == 3
    # A method whose runs agree is named plainly.
    assert "zeroshot" in labels


def test_options_of_the_run_count_as_settings() -> None:
    rows = [row("alignclip", a, settings={"guide": g, "tau": None}) for g, a in (("dv", 0.4), ("vvv", 0.6))]
    (table,) = make_tables(rows)
    assert shown(table) == {
        ("noto", "alignclip (guide dv)"): ["40.0"],
        ("noto", "alignclip (guide vvv)"): ["60.0"],
    }


def test_settings_of_training_mean_nothing_where_nothing_was_trained() -> None:
    rows = [row("zeroshot", 0.3, steps=0, lr=lr, seed=seed) for seed, lr in enumerate((1e-5, 1e-4))]
    (table,) = make_tables(rows)
    assert shown(table) == {("noto", "zeroshot"): ["30.0 ± 0.0"]}


def test_a_result_written_twice_counts_once() -> None:
    rows = [row("zeroshot", 0.3, run="a", command="x"), row("zeroshot", 0.3, run="b", command="y")]
    (table,) = make_tables(rows)
    assert table.lines[0].seeds == "1"


def test_runs_of_one_seed_that_disagree_are_told_apart_by_folder() -> None:
    (table,) = make_tables([row(accuracy=0.3, run="a"), row(accuracy=0.4, run="b")])
    assert shown(table) == {("noto", "erm (a)"): ["30.0"], ("noto", "erm (b)"): ["40.0"]}


def test_wild_rows_are_grouped_by_target_with_the_harmonic_mean() -> None:
    rows = wild("erm", 0.4, 0.2, target="noto") + wild("erm", 0.6, 0.3, target="twemoji", split_hash="b" * 64)
    rows += wild("zeroshot", 0.3, 0.3, target="noto")
    (table,) = make_tables(rows)
    assert table.columns == ("all", "base", "new", "h")
    lines = shown(table)
    assert lines["noto", "erm"] == ["30.0", "40.0", "20.0", "26.7"]
    assert lines["mean", "erm"] == ["37.5", "50.0", "25.0", "33.3"]
    # zeroshot lacks a target, so it has no mean over targets.
    assert lines["mean", "zeroshot"] == ["", "", "", ""]
    assert [line.labels for line in table.lines][:2] == [("noto", "zeroshot"), ("noto", "erm")]


def test_mean_over_targets_is_taken_within_each_seed() -> None:
    # Opposite changes of two targets cancel in each seed's mean: its deviation is 0, not theirs.
    values = {("noto", 0): 0.4, ("noto", 1): 0.6, ("twemoji", 0): 0.6, ("twemoji", 1): 0.4}
    (table,) = make_tables(row(accuracy=a, target=t, seed=s, split_hash=t) for (t, s), a in values.items())
    assert shown(table) == {("erm",): ["50.0 ± 14.1", "50.0 ± 14.1", "50.0 ± 0.0"]}


def test_a_seed_without_all_targets_is_left_out_of_the_mean() -> None:
    rows = [row(accuracy=0.2), row(accuracy=0.4, target="twemoji"), row(accuracy=1.0, seed=1)]
    (table,) = make_tables(rows)
    assert shown(table)["erm",][-1] == "30.0"


def test_tables_are_separate_by_data_protocol_and_backbone() -> None:
    rows = [
        row(),
        row(protocol="base-to-new", test="new"),
        row(backbone="ViT-B-16:openai"),
        row(data="photos"),
    ]
    titles = [table.title for table in make_tables(rows)]
    assert len(set(titles)) == 4
    assert "pictograms, domain-shift, ViT-B-16:openai" in titles


def test_rows_of_eval_have_one_column_per_domain() -> None:
    rows = [
        row("zeroshot", a, protocol=None, target=None, test=d) for d, a in (("noto", 0.2), ("twemoji", 0.3))
    ]
    (table,) = make_tables(rows)
    assert table.heads == ("method",) and table.columns == ("noto", "twemoji")
    assert shown(table) == {("zeroshot",): ["20.0", "30.0"]}


def test_no_rows_no_tables() -> None:
    assert make_tables([]) == []


def sample() -> list[Table]:
    rows = (
        wild("zeroshot", 0.2, 0.2)
        + wild("al<ign|clip", 0.3, 0.2, seed=0)
        + wild("al<ign|clip", 0.34, 0.1, seed=1)
    )
    return make_tables(rows)


def test_markdown_is_a_pipe_table_with_the_best_in_bold() -> None:
    (table,) = sample()
    lines = to_markdown(table).splitlines()
    widths = {line.replace("\\|", "").count("|") for line in lines[:4]}
    assert widths == {8}
    assert "**32.0 ± 2.8**" in lines[3] and "**20.0**" in lines[2]
    assert "al<ign\\|clip" in lines[3]


def test_html_is_escaped() -> None:
    (table,) = sample()
    html = to_html(table)
    assert "al&lt;ign|clip" in html and "<ign" not in html
    assert html.count('class="number best"') == 4


def test_csv_gives_numbers_in_percent() -> None:
    lines = list(csv.DictReader(io.StringIO(to_csv(sample()))))
    base = next(x for x in lines if x["column"] == "base" and x["method"] == "al<ign|clip")
    assert float(base["mean_percent"]) == pytest.approx(32.0) and base["seeds"] == "2"
    assert float(base["std_percent"]) == pytest.approx(2.8284, abs=1e-3)
    assert next(x for x in lines if x["method"] == "zeroshot")["std_percent"] == ""


def test_a_narrow_terminal_keeps_every_number() -> None:
    console = Console(width=60, record=True, file=io.StringIO())
    print_tables(sample(), console)
    text = console.export_text()
    for number in ("32.0 ± 2.8", "15.0 ± 7.1", "20.0"):
        assert number in text


def test_forgetting_compares_new_classes_with_zero_shot() -> None:
    rows = wild("erm", 0.5, 0.22) + wild("erm", 0.5, 0.24, seed=1) + wild("alignclip", 0.5, 0.33)
    rows = [r | ({"zeroshot": 0.3} if r["test"] == "new" else {}) for r in rows] + wild("zeroshot", 0.2, 0.3)
    found = {item.label: item for item in forgetting(rows)}
    assert list(found) == ["erm", "alignclip"]
    assert found["erm"].after == pytest.approx(0.23) and found["erm"].before == pytest.approx(0.30)
    assert found["erm"].seeds == 2
    assert "forgot 7.0 points" in str(found["erm"]) and "gained 3.0 points" in str(found["alignclip"])


def test_forgetting_nothing() -> None:
    (found,) = forgetting([row(accuracy=0.3, zeroshot=0.3, test="new")])
    assert "forgot nothing" in str(found)


def test_forgetting_says_nothing_without_new_classes() -> None:
    assert forgetting([row("zeroshot"), row("erm")]) == []


def test_a_row_that_could_not_be_scored_is_a_dash_with_its_reason() -> None:
    rows = [row(accuracy=0.4, test="base"), row("linear-probe", accuracy=0.5, test="base")]
    rows += [row(accuracy=0.3, test="new", zeroshot=0.3)]
    rows += [
        row("linear-probe", accuracy=None, test="new", reason="its head knows its own classes", zeroshot=0.3)
    ]
    (table,) = make_tables(rows)
    assert shown(table)["noto", "linear-probe"] == ["50.0", ""]
    assert any("linear-probe: its head knows" in note for note in table.notes)
    assert "| noto | linear-probe | **50.0** | – | 1 |" in to_markdown(table)
    assert [item.label for item in forgetting(rows)] == ["erm"]
