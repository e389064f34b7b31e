"""Stored predictions of runs, by table line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from .collect import StoredRun
from .rows import ReportRow, Task, by_task, label_rows


class LineKey(NamedTuple):
    """A table line on one test set; the target is "" if there is none."""

    label: str
    target: str
    test: str


@dataclass(frozen=True)
class Predictions:
    """Predictions of one run on the fixed views of a test set; classes are positions in the source's names.

    Attributes:
        run: the run.
        rows: [n], rows of the source; the views of a row are adjacent.
        labels: [n], true classes.
        ranked: [n, k], the k <= 5 classes with the highest logits, best first.
        probabilities: [n, k], their probabilities; None in runs that stored none.
    """

    run: StoredRun
    rows: np.ndarray
    labels: np.ndarray
    ranked: np.ndarray
    probabilities: np.ndarray | None = None

    @property
    def answers(self) -> np.ndarray:
        """[n], the predicted classes."""
        return self.ranked[:, 0]  # [n]

    @cached_property
    def right(self) -> np.ndarray:
        """[n] bool, whether the prediction is the true class."""
        return self.answers == self.labels  # [n]

    @property
    def draws(self) -> np.ndarray:
        """[n], the number of each view among those of its row."""
        starts = np.r_[True, self.rows[1:] != self.rows[:-1]]  # [n]
        first = np.maximum.accumulate(np.where(starts, np.arange(len(self.rows)), 0))  # [n]
        return np.arange(len(self.rows)) - first

    def same_views(self, other: Predictions) -> bool:
        """Return whether both runs were tested on the same views."""
        return np.array_equal(self.rows, other.rows) and np.array_equal(self.labels, other.labels)


Lines = dict[LineKey, list[Predictions]]  # one element per seed


def read_predictions(run: StoredRun, test: str) -> Predictions | None:
    """Read the predictions of one run on one test set; None if it stored none."""
    path = run.folder.predictions
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as file:
        if f"{test}/ranked" not in file:
            return None
        rows, labels, ranked = (file[f"{test}/{name}"] for name in ("rows", "labels", "ranked"))
        name = f"{test}/probabilities"
        return Predictions(run, rows, labels, ranked, file[name].astype(float) if name in file else None)


def rows_by_task(runs: Sequence[StoredRun]) -> dict[Task, list[ReportRow]]:
    """Return the rows of all runs, by task."""
    return by_task(row for run in runs for row in run.rows())


def predictions_by_task(runs: Sequence[StoredRun]) -> Iterator[tuple[Task, Lines]]:
    """Yield each task with the predictions of its lines, one element per seed."""
    by_name = {run.name: run for run in runs}
    for task, rows in rows_by_task(runs).items():
        lines: Lines = {}
        for label, row in label_rows(rows):
            if (found := read_predictions(by_name[row.run], row.result.test)) is not None:
                lines.setdefault(LineKey(label, row.result.target or "", row.result.test), []).append(found)
        yield task, lines
