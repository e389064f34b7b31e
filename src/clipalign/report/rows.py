"""Result rows with their origin, and the labels that keep rows apart unless only their seed differs.

Rows share a table if data, protocol and backbone agree, and a line of it if the method, its settings and the split
agree too. A label is the method's name, followed by the settings in which its runs differ.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ..core.config import AverageOptions, ModelOptions, OptimiserOptions, RecipeOptions, ScheduleOptions
from ..core.fields import options_of
from ..evaluation.metrics import metric_fields
from ..evaluation.results import ResultRow
from ..protocols import RETRIEVAL

# Fields of a result row that are settings; all other settings come from the options of the run.
SETTINGS = ("recipe", "steps", "lr", "average", "template")
# Options that a label leaves out if it names the recipe and all runs of that recipe agree in them.
BY_RECIPE = frozenset(
    ("interpolation", "names", *options_of(RecipeOptions, OptimiserOptions, ScheduleOptions, AverageOptions))
)
# Settings that matter even if nothing was trained.
EVALUATION_SETTINGS = frozenset(
    {"template", "data_options", "precision", "interpolation", "names", "pooling"}
)
BASELINES = ("zeroshot", "erm")

Place = tuple[str | None, str]  # target, test
Comparable = tuple[str | int | None, ...]


@dataclass(frozen=True)
class ReportRow:
    """A result row and the run that wrote it.

    Attributes:
        result: the row.
        run: folder of the run, relative to the folder of the report; empty if unknown.
        settings: options of the run that can change its numbers.
    """

    result: ResultRow
    run: str = ""
    settings: Mapping[str, object] = field(default_factory=dict)

    @property
    def place(self) -> Place:
        """Target and test set."""
        return self.result.target, self.result.test


class Task(NamedTuple):
    """Fields that the rows of one table have in common."""

    data: str
    protocol: str | None
    backbone: str

    @property
    def title(self) -> str:
        """Title of the table."""
        return f"{self.data}, {self.protocol or 'each domain'}, {self.backbone}"


class LabelledRow(NamedTuple):
    """A row and the label of its table line."""

    label: str
    row: ReportRow


def by_task(rows: Iterable[ReportRow]) -> dict[Task, list[ReportRow]]:
    """Group rows by task, in order of appearance."""
    groups: dict[Task, list[ReportRow]] = {}
    for row in rows:
        result = row.result
        groups.setdefault(Task(result.data, result.protocol, result.backbone), []).append(row)
    return groups


def is_retrieval(row: ReportRow) -> bool:
    """Return whether a row holds recalls instead of an accuracy."""
    return row.result.protocol == RETRIEVAL


def label_rows(rows: Sequence[ReportRow]) -> list[LabelledRow]:
    """Label the rows of one task, and drop copies of the same result.

    A label names the settings in which the runs of a method differ, the split if rows of the same test set have
    several, and the folder if runs of one seed disagree for a reason that the rows do not hold. If runs differ in their
    recipe, its name stands for the options that it sets.
    """
    varying: dict[str, list[str]] = {}
    for method in dict.fromkeys(row.result.method for row in rows):
        varying[method] = _varying([_settings(row) for row in rows if row.result.method == method])
    splits: dict[Place, set[Comparable]] = {}
    for row in rows:
        splits.setdefault(row.place, set()).add(_comparable(row))
    labelled = []
    for row in rows:
        method, values = row.result.method, _settings(row)
        parts = [f"{name.replace('_', ' ')} {values.get(name, 'none')}" for name in varying[method]]
        if len(splits[row.place]) > 1:
            parts.append(f"split {_fingerprint(row)}")
        labelled.append(LabelledRow(f"{method} ({', '.join(parts)})" if parts else method, row))
    return _separate_repeats(labelled)


def _separate_repeats(labelled: list[LabelledRow]) -> list[LabelledRow]:
    """Add the folder to labels whose runs of one seed disagree; keep one of several rows that agree.

    Zero-shot rows are written by several runs of a study and agree.
    """
    repeats: dict[tuple[str, Place, int], list[ReportRow]] = {}
    for label, row in labelled:
        repeats.setdefault((label, row.place, row.result.seed), []).append(row)
    unclear = {key[0] for key, same in repeats.items() if len({_values(row) for row in same}) > 1}
    if unclear:
        return [
            LabelledRow(f"{label} ({row.run})" if label in unclear and row.run else label, row)
            for label, row in labelled
        ]
    return [one for one in labelled if repeats[one.label, one.row.place, one.row.result.seed][0] is one.row]


def order_labels(labels: Iterable[str]) -> list[str]:
    """Return distinct labels: baselines first, then by name."""

    def rank(label: str) -> tuple[int, str]:
        method = method_of(label)
        return (BASELINES.index(method) if method in BASELINES else len(BASELINES), label)

    return sorted(dict.fromkeys(labels), key=rank)


def method_of(label: str) -> str:
    """Return the method of a label."""
    return label.split(" (")[0]


def _varying(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the names of the settings in which runs of one method differ."""
    names = dict.fromkeys(["recipe", *(name for values in settings for name in values)])
    recipes: dict[str | None, list[Mapping[str, str]]] = {}
    for values in settings:
        recipes.setdefault(values.get("recipe"), []).append(values)

    def differs(name: str) -> bool:
        groups = recipes.values() if name in BY_RECIPE and name != "recipe" else [settings]
        return any(len({values.get(name) for values in group}) > 1 for group in groups)

    return [name for name in names if differs(name)]


def _settings(row: ReportRow) -> dict[str, str]:
    """Return the settings that matter to a row, as text."""
    values = dict(row.settings)
    values |= {name: value for name in SETTINGS if (value := getattr(row.result, name)) is not None}
    for name in ("interpolation", "names"):
        if name in row.result.extra:  # the value in use; the option may be unset
            values[name] = row.result.extra[name]
    values = {
        "names": ModelOptions.names,
        "pooling": ModelOptions.pooling,
        **values,
    }  # of runs that store none
    trained = row.result.steps > 0
    return {name: _text(value) for name, value in values.items() if trained or name in EVALUATION_SETTINGS}


def _comparable(row: ReportRow) -> Comparable:
    """Return the facts in which rows of one test set must agree to be comparable."""
    result = row.result
    texts = result.value("texts")
    return (result.split_hash, result.label_space, result.n, *(() if texts is None else (int(texts),)))


def _fingerprint(row: ReportRow) -> str:
    """Return a short digest of split, label space and number of images."""
    return hashlib.sha256(repr(_comparable(row)).encode("utf-8")).hexdigest()[:8]


def _values(row: ReportRow) -> tuple[float | None, ...]:
    """Return the numbers in which copies of a result agree."""
    result = row.result
    return tuple(result.value(field.name) for field in metric_fields() if not field.by)


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
