"""Which differences of a table are more than chance: paired bootstrap over what was drawn independently.

Every method is tested on the same views, so methods are compared view by view, and most of what makes a test set
hard cancels. The views of Pictograms are not independent: renders of one drawing share its ink, drawings of one
concept share its name. There the concept is drawn again; elsewhere the image is. Seeds of training are averaged
before, so an interval says how far another test set of this kind would move the difference, not how far another
seed would: that is what ± says.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.errors import UserError
from .collect import Found
from .table import Row
from .tables import label_rows, order_labels

DRAWS = 4000  # bootstrap samples; the ends of an interval then move by some 2 % of its width
POWER = 1.96 + 0.84  # standard errors that are found 4 times of 5 at a level of 5 %
FEWEST = 10  # units below which a bootstrap interval is not worth printing
DEFAULT_BASELINES = ("erm", "zeroshot")
CSV_HEADS = (
    *("task", "target", "test", "method", "baseline", "difference", "low_95", "high_95"),
    *("smallest_detectable", "units", "unit"),
)


@dataclass(frozen=True)
class Hits:
    """What a line of a table got right on one test set.

    Attributes:
        units: [u] identities of what was drawn independently, ascending.
        right: [u] views of it that were right, mean over seeds.
        views: [u] how many views it has.
        seeds: runs behind it.
    """

    units: np.ndarray
    right: np.ndarray
    views: np.ndarray
    seeds: int

    @property
    def accuracy(self) -> float:
        """Share of views that were right, in [0, 1]."""
        return float(self.right.sum() / self.views.sum())


@dataclass(frozen=True)
class Estimate:
    """A value in [0, 1] with its 95 % interval, and its standard error over bootstrap samples."""

    value: float
    low: float
    high: float
    error: float

    @property
    def detectable(self) -> float:
        """The smallest true difference that a test of this size finds 4 times of 5 at a level of 5 %."""
        return POWER * self.error


@dataclass(frozen=True)
class Difference:
    """A line of a table against the baseline, on the same views.

    Attributes:
        place: data, protocol and backbone; target: domain or "mean"; test: of its rows.
        label, baseline: lines of the table.
        estimate: accuracy of the line less that of the baseline.
        units, unit: how many independent things were tested, and what they are.
    """

    place: str
    target: str
    test: str
    label: str
    baseline: str
    estimate: Estimate
    units: int
    unit: str


@dataclass(frozen=True)
class Measured:
    """A line's accuracy on one test set, with its interval; for plots.

    Attributes as in `Difference`; validation: accuracy on source validation, mean over seeds.
    """

    place: str
    target: str
    test: str
    label: str
    estimate: Estimate
    validation: float | None


def bootstrap(
    parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], seed: int = 0, draws: int = DRAWS
) -> Estimate:
    """Mean over parts of sum(right) / sum(views), with units drawn again.

    Args:
        parts: per target, (units [u], values [u], views [u]); a unit that is in several parts is drawn once for
            all of them, so that what they share stays together.
        seed: of the draws.
        draws: how many.

    Returns:
        The value, the 2.5th and 97.5th percentile and the standard deviation over draws.
    """
    everything = np.unique(np.concatenate([units for units, _, _ in parts]))
    values, views = (np.zeros((len(everything), len(parts))) for _ in range(2))
    for t, (units, value, count) in enumerate(parts):
        at = np.searchsorted(everything, units)
        values[at, t], views[at, t] = value, count
    generator = np.random.default_rng(seed)
    n = len(everything)
    found = []
    for start in range(0, draws, 250):  # [250, n] counts at a time
        counts = generator.multinomial(n, np.full(n, 1 / n), size=min(250, draws - start))
        sums = counts @ views
        with np.errstate(invalid="ignore", divide="ignore"):
            found.append(np.where(sums > 0, counts @ values / sums, 0).mean(axis=1))
    means = np.concatenate(found)
    low, high = np.percentile(means, [2.5, 97.5])
    whole = float((values.sum(axis=0) / views.sum(axis=0)).mean())
    return Estimate(whole, float(low), float(high), float(means.std(ddof=1)))


def differences(runs: Sequence[Found], baseline: str | None = None) -> list[Difference]:
    """Every line of the tables against a baseline, per target and over all targets.

    Args:
        runs: those with predictions are used.
        baseline: a method, or the whole label of a line. Default: erm where it is, else zeroshot.

    Raises:
        UserError: a baseline that is in no table, or stands for several lines.
    """
    found: list[Difference] = []
    known: set[str] = set()
    for place, unit, hits in _tasks(runs):
        labels = order_labels(label for label, _, _ in hits)
        known |= set(labels)
        against = _baseline(labels, baseline)
        if against is None:
            continue
        tests = dict.fromkeys(test for _, _, test in hits)
        for test in tests:
            targets = list(dict.fromkeys(target for _, target, name in hits if name == test))
            for label in labels:
                if label == against:
                    continue
                parts: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
                for number, target in enumerate(targets):
                    ours, theirs = hits.get((label, target, test)), hits.get((against, target, test))
                    if ours is None or theirs is None or not np.array_equal(ours.units, theirs.units):
                        continue
                    # Images of different targets are different images, whatever their numbers.
                    apart = ours.units if unit == "concepts" else ours.units + number * 10**9
                    parts[target] = (apart, ours.right - theirs.right, ours.views)
                chosen = {target: [part] for target, part in parts.items()}
                if len(targets) > 1 and len(parts) == len(targets):
                    chosen["mean"] = list(parts.values())
                for target, group in chosen.items():
                    units = len(np.unique(np.concatenate([part[0] for part in group])))
                    if units >= FEWEST:
                        estimate = bootstrap(group)
                        found.append(Difference(place, target, test, label, against, estimate, units, unit))
    if baseline is not None and known and not any(_matches(label, baseline) for label in known):
        raise UserError(f"--baseline {baseline}: no such line; there are {', '.join(sorted(known))}")
    return found


def measured(runs: Sequence[Found]) -> list[Measured]:
    """Accuracy of every line on every test set, with its interval."""
    validation: dict[tuple[str, str, str, str], list[float]] = {}
    for place, labelled in _labelled(runs):
        for label, row in labelled:
            if row.get("validation") is not None:
                key = (place, label, str(row.get("target") or ""), str(row["test"]))
                validation.setdefault(key, []).append(float(row["validation"]))
    found = []
    for place, _, hits in _tasks(runs):
        for (label, target, test), hit in hits.items():
            if len(hit.units) >= FEWEST:
                shares = validation.get((place, label, target, test))
                found.append(
                    Measured(
                        place,
                        target,
                        test,
                        label,
                        bootstrap([(hit.units, hit.right, hit.views)], draws=1000),
                        float(np.mean(shares)) if shares else None,
                    )
                )
    return found


def to_csv(found: Iterable[Difference]) -> str:
    """One line per difference, in percentage points."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_HEADS)
    for d in found:
        e = d.estimate
        numbers = (f"{100 * value:.4f}" for value in (e.value, e.low, e.high, e.detectable))
        writer.writerow([d.place, d.target, d.test, d.label, d.baseline, *numbers, d.units, d.unit])
    return out.getvalue()


Key = tuple[str, str, str]  # label, target, test


def _labelled(runs: Sequence[Found]) -> Iterable[tuple[str, list[tuple[str, Row]]]]:
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for run in runs:
        for row in run.rows():
            groups.setdefault((row.get("data"), row.get("protocol"), row.get("backbone")), []).append(row)
    for (data, protocol, backbone), rows in groups.items():
        yield f"{data}, {protocol or 'each domain'}, {backbone}", label_rows(rows)


def _tasks(runs: Sequence[Found]) -> Iterable[tuple[str, str, Mapping[Key, Hits]]]:
    """Per table: its title, the independent unit, and the hits of each line."""
    by_name = {run.name: run for run in runs}
    for place, labelled in _labelled(runs):
        unit = "concepts" if place.split(",")[0] == "pictograms" else "images"
        seeds: dict[Key, list[Hits]] = {}
        for label, row in labelled:
            hits = read_hits(by_name[row["run"]], str(row["test"]), unit)
            if hits is not None:
                seeds.setdefault((label, str(row.get("target") or ""), str(row["test"])), []).append(hits)
        yield place, unit, {key: _over_seeds(group) for key, group in seeds.items()}


def read_hits(run: Found, test: str, unit: str) -> Hits | None:
    """Of one run on one test set; None where it wrote no predictions for it."""
    path = run.folder.predictions
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as file:
        if f"{test}/ranked" not in file:
            return None
        rows, labels, ranked = (file[f"{test}/{name}"] for name in ("rows", "labels", "ranked"))
    right = (ranked[:, 0] == labels).astype(float)
    units, at = np.unique(labels if unit == "concepts" else rows, return_inverse=True)
    return Hits(
        units.astype(np.int64),
        np.bincount(at, right, len(units)),
        np.bincount(at, minlength=len(units)).astype(float),
        1,
    )


def _over_seeds(group: Sequence[Hits]) -> Hits:
    """Mean over the seeds that were tested on the same units."""
    first = group[0]
    same = [hits for hits in group if np.array_equal(hits.units, first.units)]
    return Hits(first.units, np.mean([hits.right for hits in same], axis=0), first.views, len(same))


def _matches(label: str, baseline: str) -> bool:
    return label == baseline or label.split(" (")[0] == baseline


def _baseline(labels: Sequence[str], told: str | None) -> str | None:
    if told is None:
        return next((name for name in DEFAULT_BASELINES if name in labels), None)
    if told in labels:
        return told
    same = [label for label in labels if _matches(label, told)]
    if len(same) > 1:
        raise UserError(f"--baseline {told} stands for several lines; name one: {', '.join(same)}")
    return same[0] if same else None
