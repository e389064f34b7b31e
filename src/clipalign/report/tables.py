"""Rows of results.jsonl -> tables: mean and standard deviation over seeds, nothing mixed that differs.

A cell holds runs that differ in their seed alone: same data, split, label space, method and settings. Where
two lines of a table would look the same, their label says in what they differ.
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from .notes import accuracy_notes
from .table import Cell, Line, Row, Table

# Fields of a row that are settings. The other options of its run, where they are known, stand in `settings`.
SETTINGS = ("steps", "lr", "average", "template")
# What still matters where nothing was trained.
ALWAYS = frozenset({"template", "data_options", "precision"})
BASELINES = ("zeroshot", "erm")


def make_tables(rows: Iterable[Row]) -> list[Table]:
    """One table per data set, protocol and backbone, in the order in which they appear.

    Args:
        rows: fields of result rows of any number of runs. Where known, `run` names the folder and `settings`
            holds the options that could have changed the numbers. Rows of retrieval have tables of their own.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if is_retrieval(row):
            continue
        key = (row.get("data"), row.get("protocol"), row.get("backbone"))
        groups.setdefault(key, []).append(row)
    return [_table(group) for group in groups.values()]


def is_retrieval(row: Row) -> bool:
    """Whether a row holds recalls instead of an accuracy; see `report.retrieval`."""
    return row.get("protocol") == "retrieval"


def _table(rows: list[Row]) -> Table:
    labelled = label_rows(rows)
    tests = list(dict.fromkeys(str(row["test"]) for row in rows))
    targets = list(dict.fromkeys(row.get("target") for row in rows))
    first = rows[0]
    title = f"{first.get('data')}, {first.get('protocol') or 'each domain'}, {first.get('backbone')}"
    if tests in (["in"], ["out"]):
        title += f', target split "{tests[0]}"'
    if tests in (["all"], ["in"], ["out"]) and len(targets) > 1:
        table = _targets_across(labelled, targets)
    else:
        table = _tests_across(labelled, targets, tests)
    return replace(table, title=title, notes=accuracy_notes(rows, table))


# --- what makes two lines the same ------------------------------------------------------------------------


def _settings(row: Row) -> dict[str, str]:
    values = dict(row.get("settings") or {})
    values |= {name: row[name] for name in SETTINGS if row.get(name) is not None}
    return {k: _text(v) for k, v in values.items() if row.get("steps") or k in ALWAYS}


def _comparable(row: Row) -> tuple[Any, ...]:
    """Numbers on one test set are comparable only where these agree."""
    texts = (row["texts"],) if row.get("texts") is not None else ()
    return (row.get("split_hash"), row.get("label_space"), row.get("n"), *texts)


def label_rows(rows: Sequence[Row]) -> list[tuple[str, Row]]:
    """Give each row the label of its line: the method, and what tells its runs from others of that method."""
    varying: dict[str, list[str]] = {}
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [_settings(row) for row in rows if row["method"] == method]
        names = dict.fromkeys(name for settings in mine for name in settings)
        varying[method] = [name for name in names if len({s.get(name) for s in mine}) > 1]
    tasks: dict[tuple[Any, ...], set[tuple[Any, ...]]] = {}
    for row in rows:
        tasks.setdefault(_place(row), set()).add(_comparable(row))
    labelled: list[tuple[str, Row]] = []
    for row in rows:
        settings = _settings(row)
        parts = [f"{name.replace('_', ' ')} {settings.get(name, 'none')}" for name in varying[row["method"]]]
        if len(tasks[_place(row)]) > 1:
            parts.append(f"split {_fingerprint(row)}")
        labelled.append((f"{row['method']} ({', '.join(parts)})" if parts else str(row["method"]), row))
    return _tell_repeats_apart(labelled)


def _tell_repeats_apart(labelled: list[tuple[str, Row]]) -> list[tuple[str, Row]]:
    """Two runs of one seed that disagree differ in something their rows do not hold: name their folders.

    Those that agree are one result, written twice (zero-shot rows of several runs); the first is kept.
    """
    seen: dict[tuple[Any, ...], list[Row]] = {}
    for label, row in labelled:
        seen.setdefault((label, _place(row), row.get("seed")), []).append(row)
    unclear = {key[0] for key, same in seen.items() if len({_values(row) for row in same}) > 1}
    if unclear:
        return [
            (f"{label} ({row['run']})" if label in unclear and row.get("run") else label, row)
            for label, row in labelled
        ]
    return [(label, row) for label, row in labelled if seen[label, _place(row), row.get("seed")][0] is row]


def _fingerprint(row: Row) -> str:
    """A short name of split, label space and number of images."""
    return hashlib.sha256(repr(_comparable(row)).encode("utf-8")).hexdigest()[:8]


def _place(row: Row) -> tuple[Any, ...]:
    return (row.get("target"), row["test"])


def _values(row: Row) -> tuple[Any, ...]:
    recalls = tuple(row[name] for name in sorted(row) if "_recall@" in name)
    return (row["accuracy"], row.get("h"), *recalls)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def order_labels(labels: Iterable[str]) -> list[str]:
    """Baselines first, then by name."""

    def rank(label: str) -> tuple[int, str]:
        method = label.split(" (")[0]
        return (BASELINES.index(method) if method in BASELINES else len(BASELINES), label)

    return sorted(dict.fromkeys(labels), key=rank)


# --- the two shapes ---------------------------------------------------------------------------------------


def _cell(rows: Iterable[Row], value: str = "accuracy") -> Cell | None:
    values = [float(row[value]) for row in rows if row.get(value) is not None]
    return Cell.of(values) if values else None


def _seeds(cells: Iterable[Cell | None]) -> str:
    counts = sorted({cell.seeds for cell in cells if cell is not None})
    return "-".join(str(count) for count in dict.fromkeys([counts[0], counts[-1]])) if counts else ""


def _targets_across(labelled: list[tuple[str, Row]], targets: list[Any]) -> Table:
    """Columns are the domains left out, and their mean."""
    lines: list[Line] = []
    for label in order_labels(label for label, _ in labelled):
        mine = [row for name, row in labelled if name == label]
        cells = [_cell(row for row in mine if row.get("target") == target) for target in targets]
        cells.append(_mean_over_targets(mine, targets, "accuracy"))
        lines.append(Line((label,), tuple(cells), _seeds(cells)))
    return Table("", ("method",), (*map(str, targets), "mean"), tuple(lines))


def _tests_across(labelled: list[tuple[str, Row]], targets: list[Any], tests: list[str]) -> Table:
    """Columns are the test sets and the harmonic mean; lines are per target, then over targets."""
    has_h = any(row.get("h") is not None for _, row in labelled)
    names = order_labels(label for label, _ in labelled)
    lines: list[Line] = []
    for target in targets:
        for label in names:
            mine = [row for name, row in labelled if name == label and row.get("target") == target]
            if not mine:
                continue
            cells = [_cell(row for row in mine if row["test"] == test) for test in tests]
            if has_h:
                # h stands in each row of a run; one row per seed is enough.
                cells.append(
                    _cell({row.get("seed"): row for row in mine if row.get("h") is not None}.values(), "h")
                )
            lines.append(Line((str(target or "every domain"), label), tuple(cells), _seeds(cells)))
    for label in names if len(targets) > 1 else []:
        mine = [row for name, row in labelled if name == label]
        cells = [
            _mean_over_targets([row for row in mine if row["test"] == test], targets, "accuracy")
            for test in tests
        ]
        if has_h:
            cells.append(_mean_over_targets(mine, targets, "h"))
        lines.append(Line(("mean", label), tuple(cells), _seeds(cells)))
    columns = (*tests, "h") if has_h else tuple(tests)
    if len(targets) == 1 and targets[0] is None:
        lines = [replace(line, labels=line.labels[1:]) for line in lines]
        return Table("", ("method",), columns, tuple(lines))
    return Table("", ("target", "method"), columns, tuple(lines))


def _mean_over_targets(rows: Iterable[Row], targets: list[Any], value: str) -> Cell | None:
    """Plain mean over targets of each seed that has them all, then mean and deviation over those seeds."""
    by_seed: dict[Any, dict[Any, float]] = {}
    for row in rows:
        if row.get(value) is not None:
            by_seed.setdefault(row.get("seed"), {})[row.get("target")] = float(row[value])
    means = [statistics.fmean(found.values()) for found in by_seed.values() if len(found) == len(targets)]
    return Cell.of(means) if means else None
