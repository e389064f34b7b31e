"""Tables of accuracies: mean and standard deviation over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace

from .notes import accuracy_notes
from .result_table import Cell, ResultTable, TableLine, sampling_variance
from .rows import LabelledRow, ReportRow, by_task, is_retrieval, label_rows, order_labels

Target = str | None
WHOLE_TARGET = (["all"], ["in"], ["out"])  # tests of protocols that score a target as one test set


def accuracy_tables(rows: Iterable[ReportRow]) -> list[ResultTable]:
    """Return one table per data set, protocol and backbone, in order of appearance; rows of retrieval are skipped."""
    groups = by_task(row for row in rows if not is_retrieval(row))
    return [_table(task.title, group) for task, group in groups.items()]


def _table(title: str, rows: list[ReportRow]) -> ResultTable:
    labelled = label_rows(rows)
    tests = list(dict.fromkeys(row.result.test for row in rows))
    targets = list(dict.fromkeys(row.result.target for row in rows))
    if tests in (["in"], ["out"]):
        title += f', target split "{tests[0]}"'
    if tests in WHOLE_TARGET and len(targets) > 1:
        table = _targets_as_columns(labelled, targets)
    else:
        table = _tests_as_columns(labelled, targets, tests)
    return replace(table, title=title, notes=accuracy_notes(rows, table))


def _targets_as_columns(labelled: Sequence[LabelledRow], targets: list[Target]) -> ResultTable:
    """Return a line per method, with a column per target and their mean."""
    lines = []
    for label, rows in _by_label(labelled).items():
        cells = [_accuracy(_at(rows, target)) for target in targets]
        mean = _mean_over_targets(rows, targets, "accuracy", cells)
        lines.append(TableLine((label,), (*cells, mean), _seeds([*cells, mean])))
    return ResultTable("", ("method",), (*map(str, targets), "mean"), tuple(lines))


def _tests_as_columns(
    labelled: Sequence[LabelledRow], targets: list[Target], tests: list[str]
) -> ResultTable:
    """Return a line per target and method, with a column per test set and their harmonic mean; then means."""
    has_h = any(row.result.h is not None for _, row in labelled)
    columns = (*tests, "h") if has_h else tuple(tests)
    by_label = _by_label(labelled)
    cells: dict[tuple[Target, str], tuple[Cell | None, ...]] = {}
    for target in targets:
        for label, rows in by_label.items():
            if here := _at(rows, target):
                scored = {test: _accuracy([row for row in here if row.result.test == test]) for test in tests}
                h = (_harmonic(here, scored.get("base"), scored.get("new")),) if has_h else ()
                cells[target, label] = (*scored.values(), *h)
    lines = [
        TableLine((target or "every domain", label), values, _seeds(values))
        for (target, label), values in cells.items()
    ]
    for label, rows in by_label.items() if len(targets) > 1 else ():
        means = []
        known = [cells[target, label] for target in targets if (target, label) in cells]
        for i, test in enumerate(tests):
            mine = [row for row in rows if row.result.test == test]
            means.append(_mean_over_targets(mine, targets, "accuracy", [values[i] for values in known]))
        if has_h:
            means.append(_mean_over_targets(rows, targets, "h", [values[-1] for values in known]))
        lines.append(TableLine(("mean", label), tuple(means), _seeds(means)))
    if targets == [None]:
        lines = [replace(line, labels=line.labels[1:]) for line in lines]
        return ResultTable("", ("method",), columns, tuple(lines))
    return ResultTable("", ("target", "method"), columns, tuple(lines))


def _by_label(labelled: Sequence[LabelledRow]) -> dict[str, list[ReportRow]]:
    labels = order_labels(label for label, _ in labelled)
    return {label: [row for name, row in labelled if name == label] for label in labels}


def _at(rows: Iterable[ReportRow], target: Target) -> list[ReportRow]:
    return [row for row in rows if row.result.target == target]


def _accuracy(rows: Sequence[ReportRow]) -> Cell | None:
    """Summarise the accuracy of one method on one test set."""
    scored = [row.result for row in rows if row.result.accuracy is not None]
    if not scored:
        return None
    values = [row.accuracy for row in scored if row.accuracy is not None]
    # Seeds share the test images. Views of one drawing are not independent, so drawings are counted where known.
    images = min(row.rows or row.n for row in scored)
    return Cell.of(values, sampling_variance(statistics.fmean(values), images))


def _harmonic(rows: Sequence[ReportRow], base: Cell | None, new: Cell | None) -> Cell | None:
    """Summarise the harmonic mean of one method on one target."""
    # All rows of a run hold its h, so one row per seed is taken.
    values = list({row.result.seed: row.result.h for row in rows if row.result.h is not None}.values())
    if not values:
        return None
    sampling = 0.0
    if base is not None and new is not None and base.mean + new.mean > 0:
        b, n = base.mean, new.mean
        # First order: dh/db = 2 n^2 / (b + n)^2, and the same with b and n exchanged.
        slopes = 2 * n**2 / (b + n) ** 2, 2 * b**2 / (b + n) ** 2
        sampling = slopes[0] ** 2 * base.sampling + slopes[1] ** 2 * new.sampling
    return Cell.of(values, sampling)


def _mean_over_targets(
    rows: Iterable[ReportRow], targets: list[Target], name: str, cells: Sequence[Cell | None]
) -> Cell | None:
    """Average over targets within each seed that has all of them, then summarise over seeds.

    Args:
        rows: rows of one method.
        targets: all targets of the table.
        name: field to average.
        cells: summaries per target.
    """
    by_seed: dict[int, dict[Target, float]] = {}
    for row in rows:
        if (value := row.result.value(name)) is not None:
            by_seed.setdefault(row.result.seed, {})[row.result.target] = value
    means = [statistics.fmean(values.values()) for values in by_seed.values() if len(values) == len(targets)]
    sampling = sum(cell.sampling for cell in cells if cell is not None) / len(targets) ** 2
    return Cell.of(means, sampling) if means else None


def _seeds(cells: Iterable[Cell | None]) -> str:
    """Format the number of seeds of a line: "3" or "2-3"."""
    counts = sorted({cell.seeds for cell in cells if cell is not None})
    return "-".join(str(count) for count in dict.fromkeys([counts[0], counts[-1]])) if counts else ""
