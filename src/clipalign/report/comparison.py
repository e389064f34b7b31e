"""Paired comparison of table lines with a baseline, from the predictions of the runs.

All methods are tested on the same views, so they are compared view by view, and most of the variance of a test set
cancels. The views of Pictograms are not independent: renders of one drawing share its ink, and drawings of one concept
share its name. Concepts are resampled there, images elsewhere. Seeds are averaged first: an interval describes another
test set of the same kind, and ± describes another seed.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..core.errors import UserError
from ..evaluation.bootstrap import Estimate, UnitValues, bootstrap
from .collect import StoredRun
from .predictions import LineKey, Predictions, predictions_by_task, rows_by_task
from .rows import Task, label_rows, method_of, order_labels

Unit = Literal["concepts", "images"]

MIN_UNITS = 10  # a bootstrap interval over fewer units is not printed
DEFAULT_BASELINES = ("erm", "zeroshot")
MEAN = "mean"  # target of the mean over all targets
CSV_HEADS = (
    *("task", "target", "test", "method", "baseline", "difference", "low_95", "high_95"),
    *("smallest_detectable", "units", "unit"),
)


@dataclass(frozen=True)
class Hits:
    """Correct predictions of one table line on one test set.

    Attributes:
        units: [u] identities of the independent units, ascending.
        right: [u] correct views of a unit, mean over seeds.
        views: [u] number of views of a unit.
    """

    units: np.ndarray
    right: np.ndarray
    views: np.ndarray


@dataclass(frozen=True)
class Difference:
    """A table line compared with the baseline on the same views.

    Attributes:
        task: title of the table.
        target: domain, "mean" over domains, or "".
        test: name of the test set.
        label, baseline: the two lines.
        estimate: accuracy of the line minus that of the baseline.
        units, unit: number and kind of independent units.
    """

    task: str
    target: str
    test: str
    label: str
    baseline: str
    estimate: Estimate
    units: int
    unit: Unit


@dataclass(frozen=True)
class LineAccuracy:
    """Accuracy of a table line on one test set, with its interval.

    Attributes:
        task, target, test, label: as in `Difference`.
        estimate: accuracy.
        validation: accuracy on source validation, mean over seeds; None if unknown.
    """

    task: str
    target: str
    test: str
    label: str
    estimate: Estimate
    validation: float | None


def differences(runs: Sequence[StoredRun], baseline: str | None = None) -> list[Difference]:
    """Compare every table line with a baseline, per target and on average over targets.

    Args:
        runs: those with predictions are used.
        baseline: a method, or the full label of a line. Default: erm if a table has it, else zeroshot.

    Returns:
        Differences by task and test set; targets in order of appearance, their mean last; the largest first.

    Raises:
        UserError: no table has the baseline, or it matches several lines.
    """
    found: list[Difference] = []
    known: set[str] = set()
    for task, unit, hits in _hits_by_task(runs):
        labels = order_labels(key.label for key in hits)
        known |= set(labels)
        reference = choose_baseline(labels, baseline)
        if reference is None:
            continue
        for test in dict.fromkeys(key.test for key in hits):
            compared = [
                difference
                for label in labels
                if label != reference
                for difference in _compare(task.title, unit, hits, test, label, reference)
            ]
            targets = [*dict.fromkeys(key.target for key in hits if key.test == test), MEAN]
            found += sorted(compared, key=lambda d: (targets.index(d.target), -d.estimate.value))
    if baseline is not None and known and not any(_matches(label, baseline) for label in known):
        raise UserError(f"--baseline {baseline}: no such line; there are {', '.join(sorted(known))}")
    return found


def _compare(
    task: str, unit: Unit, hits: Mapping[LineKey, Hits], test: str, label: str, baseline: str
) -> Iterator[Difference]:
    """Yield the differences of one line on one test set: per target, then their mean."""
    targets = list(dict.fromkeys(key.target for key in hits if key.test == test))
    parts: dict[str, UnitValues] = {}
    for number, target in enumerate(targets):
        ours = hits.get(LineKey(label, target, test))
        theirs = hits.get(LineKey(baseline, target, test))
        if ours is not None and theirs is not None:
            part = paired_part(ours, theirs, number, unit)
            if part is not None:
                parts[target] = part
    groups = {target: [part] for target, part in parts.items()}
    if len(targets) > 1 and len(parts) == len(targets):
        groups[MEAN] = list(parts.values())
    for target, group in groups.items():
        count = len(np.unique(np.concatenate([part.units for part in group])))
        if count >= MIN_UNITS:
            yield Difference(task, target, test, label, baseline, bootstrap(group), count, unit)


def paired_part(ours: Hits, theirs: Hits, number: int, unit: str) -> UnitValues | None:
    """Return the differences of two lines on one target, by unit; None if they were tested on different units.

    Args:
        ours, theirs: hits of the two lines.
        number: number of the target among those of the task.
        unit: kind of the units.
    """
    if not np.array_equal(ours.units, theirs.units):
        return None
    # Images of different targets are different images, even if their row numbers agree.
    units = ours.units if unit == "concepts" else ours.units + number * 10**9
    return UnitValues(units, ours.right - theirs.right, ours.views)


def line_accuracies(runs: Sequence[StoredRun]) -> list[LineAccuracy]:
    """Return the accuracy of every table line on every test set, with its interval."""
    validation: dict[tuple[Task, LineKey], list[float]] = {}
    for task, rows in rows_by_task(runs).items():
        for label, row in label_rows(rows):
            if row.result.validation is not None:
                key = LineKey(label, row.result.target or "", row.result.test)
                validation.setdefault((task, key), []).append(row.result.validation)
    found = []
    for task, _, hits in _hits_by_task(runs):
        for key, line in hits.items():
            if len(line.units) >= MIN_UNITS:
                shares = validation.get((task, key))
                estimate = bootstrap([UnitValues(line.units, line.right, line.views)], draws=1000)
                mean = float(np.mean(shares)) if shares else None
                found.append(LineAccuracy(task.title, key.target, key.test, key.label, estimate, mean))
    return found


def differences_csv(found: Iterable[Difference]) -> str:
    """Return differences as CSV, in percentage points."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_HEADS)
    for d in found:
        e = d.estimate
        numbers = (f"{100 * value:.4f}" for value in (e.value, e.low, e.high, e.detectable))
        writer.writerow([d.task, d.target, d.test, d.label, d.baseline, *numbers, d.units, d.unit])
    return out.getvalue()


def _hits_by_task(runs: Sequence[StoredRun]) -> Iterator[tuple[Task, Unit, dict[LineKey, Hits]]]:
    """Yield each task with its independent unit and the hits of its lines."""
    for task, lines in predictions_by_task(runs):
        unit = unit_of(task.data)
        yield task, unit, {key: mean_hits(seeds, unit) for key, seeds in lines.items()}


def unit_of(data: str) -> Unit:
    """Return the independent unit of a data set."""
    return "concepts" if data == "pictograms" else "images"


def hits_of(predictions: Predictions, unit: Unit) -> Hits:
    """Return the correct predictions of a run by unit."""
    ids = predictions.labels if unit == "concepts" else predictions.rows
    units, at = np.unique(ids, return_inverse=True)  # [u], [n]
    return Hits(
        units.astype(np.int64),
        np.bincount(at, predictions.right.astype(float), len(units)),
        np.bincount(at, minlength=len(units)).astype(float),
    )


def mean_hits(seeds: Sequence[Predictions], unit: Unit) -> Hits:
    """Return the hits of a line, averaged over its seeds."""
    return _mean_over_seeds([hits_of(one, unit) for one in seeds])


def _mean_over_seeds(seeds: Sequence[Hits]) -> Hits:
    """Average over the seeds that were tested on the same units as the first."""
    first = seeds[0]
    same = [hits for hits in seeds if np.array_equal(hits.units, first.units)]
    return Hits(first.units, np.mean([hits.right for hits in same], axis=0), first.views)


def _matches(label: str, baseline: str) -> bool:
    return baseline in (label, method_of(label))


def choose_baseline(labels: Sequence[str], chosen: str | None) -> str | None:
    """Return the baseline among the labels of a table; None if the table lacks it."""
    if chosen is None:
        return next((name for name in DEFAULT_BASELINES if name in labels), None)
    if chosen in labels:
        return chosen
    matching = [label for label in labels if _matches(label, chosen)]
    if len(matching) > 1:
        raise UserError(f"--baseline {chosen} matches several lines; name one: {', '.join(matching)}")
    return matching[0] if matching else None
