"""Trials of a search, and the file that holds them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from ...core.checkpoint import write_text
from ...core.errors import UserError
from ...core.search import Value
from ...evaluation.results import ResultRow

FILE = "trials.jsonl"


@dataclass(frozen=True)
class Trial:
    """One set of values, trained and scored on every inner episode.

    Attributes:
        number: from 1.
        values: by option.
        score: mean of `scores`; None if a run failed.
        scores: one per inner episode, in [0, 1]; see `fold_score`.
        seconds: training time of all runs.
        error: why a run failed.
    """

    number: int
    values: Mapping[str, Value]
    score: float | None = None
    scores: tuple[float, ...] = ()
    seconds: float = 0.0
    error: str | None = None


def fold_score(rows: Iterable[ResultRow]) -> float:
    """Return the score of a run: harmonic mean of base and new accuracy, else the mean accuracy of its tests.

    Raises:
        UserError: a test has no accuracy.
    """
    rows = list(rows)
    for row in rows:
        if row.accuracy is None:
            raise UserError(f'no accuracy on the test set "{row.test}": {row.reason}')
    if rows[0].h is not None:
        return rows[0].h
    return sum(row.accuracy or 0.0 for row in rows) / len(rows)


def best_trial(trials: Iterable[Trial]) -> Trial | None:
    """Return the trial with the highest score, the first one on a tie; None if none has a score."""
    scored = [trial for trial in trials if trial.score is not None]
    return max(scored, key=lambda trial: (trial.score or 0.0, -trial.number), default=None)


def read_trials(folder: Path) -> dict[int, Trial]:
    """Return the trials of a folder by number; none if it has no file.

    Raises:
        UserError: a line is not a trial.
    """
    path = folder / FILE
    trials: dict[int, Trial] = {}
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for number, line in enumerate(lines, 1):
        try:
            values = json.loads(line)
            trial = Trial(**{**values, "scores": tuple(values["scores"])})
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path}, line {number}: not a trial ({error})") from None
        trials[trial.number] = trial
    return trials


def write_trials(folder: Path, trials: Mapping[int, Trial]) -> None:
    """Write all trials by number in one atomic replacement."""
    lines = [json.dumps(asdict(trials[number])) + "\n" for number in sorted(trials)]
    write_text(folder / FILE, "".join(lines))
