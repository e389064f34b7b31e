"""`clipalign tune`: try values of options on inner episodes, and write the best as a configuration."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from ...core.checkpoint import write_text
from ...core.errors import UserError
from ...core.fields import build, options_of
from ...core.parsing import OptionParser, make_config, split_tokens
from ...core.search import Value
from ...core.yaml_files import dump_yaml, read_yaml
from ...evaluation.results import ResultRow, read_results
from ...runs.folder import RunFolder
from ...runs.options import TrainOptions, train_options, train_options_from
from ..sweep.pool import run_all
from ..sweep.study import Job
from ..train import train_from
from ..tune_options import SearchOptions
from .study import Study, prepare_study
from .trials import Trial, best_trial, fold_score, write_trials

BEST = "best.yaml"


@dataclass(frozen=True)
class Tuning:
    """Outcome of a search.

    Attributes:
        out: folder of the search.
        trials: all trials, by number.
        best: trial with the highest score.
        rows: result rows of the final training with --train, else none.
    """

    out: Path
    trials: tuple[Trial, ...]
    best: Trial
    rows: tuple[ResultRow, ...] = ()

    @property
    def config(self) -> Path:
        """Options with the best values, usable as `clipalign train --config`."""
        return self.out / BEST


def tune(
    method: str,
    data: str | Path,
    out: str | Path,
    *,
    trials: int = 20,
    sampler: Literal["random", "tpe"] = "random",
    folds: int | None = None,
    train: bool = False,
    jobs: int = 1,
    devices: Sequence[str] = (),
    **options: Any,
) -> Tuning:
    """Choose options by nested validation, as `clipalign tune` does.

    Args:
        method: a name of `list_methods`.
        data: as --data.
        out: folder of the search; an interrupted or extended search continues in it.
        options: of `clipalign train`, `config` included; options that are given are not searched.

    The other keywords are the options of the search; see `SearchOptions`.

    Raises:
        UserError: invalid input, or no trial has a score.
    """
    search = {"trials": trials, "sampler": sampler, "folds": folds, "train": train, "jobs": jobs}
    values = {**options, "method": method, "data": str(data), "out": str(out)}
    return _tune(
        train_options_from(values),
        make_config(SearchOptions, {**search, "devices": tuple(devices)}),
        options.get("config"),
    )


def run_tune(tokens: Sequence[str], prog: str = "clipalign tune") -> Tuning:
    """Search as a command line says, and print a table of trials."""
    positional, groups = split_tokens(tokens)
    own = {*options_of(SearchOptions), "config"}
    values = OptionParser(prog, SearchOptions).parse(
        [t for name, group in groups if name in own for t in group]
    )
    config_file = values.pop("config", None)
    others = [t for name, group in groups if name not in own or name == "config" for t in group]
    options = train_options([*positional, *others], prog)
    outcome = _tune(options, build(SearchOptions, values), config_file)
    print_trials(outcome)
    return outcome


def _tune(options: TrainOptions, search: SearchOptions, config_file: str | Path | None) -> Tuning:
    study = prepare_study(options, search, None if config_file is None else str(config_file))
    console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
    wanted = range(1, search.trials + 1)
    done = sum(study.trials[n].error is None for n in wanted if n in study.trials)
    console.print(f"{search.trials} trials of {len(study.episodes)} runs, {done} of them done", markup=False)
    unfinished = [n for n in wanted if n not in study.trials or study.trials[n].error is not None]
    # Random trials are independent; those of TPE depend on the scores of earlier ones.
    batches = [unfinished] if search.sampler == "random" else [[n] for n in unfinished]
    for batch in batches:
        for trial in run_trials(study, batch):
            study.trials[trial.number] = trial
            write_trials(study.out, study.trials)
            console.print(describe(trial), markup=False)
    trials = tuple(study.trials[n] for n in wanted)
    best = best_trial(trials)
    if best is None:
        raise UserError(f"tune: all trials failed; the first: {trials[0].error}")
    write_best(study, best)
    rows = train_best(study, best) if search.train else []
    return Tuning(study.out, trials, best, tuple(rows))


def run_trials(study: Study, numbers: Iterable[int]) -> Iterator[Trial]:
    """Run what is not finished of some trials; yield each trial when its last run has ended."""
    values = {number: study.values(number) for number in numbers}
    jobs = {number: study.jobs(number, values[number]) for number in values}
    errors: dict[int, str] = {}
    left = {n: {job.name for job in of if not RunFolder(study.out / job.name).done} for n, of in jobs.items()}
    yield from (finish(study, n, values[n], jobs[n], None) for n in values if not left[n])
    number_of = {job.name: number for number, of in jobs.items() for job in of}
    waiting = [job for number, of in jobs.items() for job in of if job.name in left[number]]
    for event in run_all(waiting, study.out, study.search.jobs, study.search.devices):
        if event is None or event.started:
            continue
        number = number_of[event.job.name]
        left[number].discard(event.job.name)
        if event.error is not None:
            errors.setdefault(number, f"{event.job.name}: {event.error}")
        if not left[number]:
            yield finish(study, number, values[number], jobs[number], errors.get(number))


def finish(
    study: Study, number: int, values: Mapping[str, Value], jobs: Sequence[Job], error: str | None
) -> Trial:
    """Return a trial with its scores, and delete the weights of its runs, which would fill the disk."""
    if error is not None:
        return Trial(number, values, error=error)
    folders = [RunFolder(study.out / job.name) for job in jobs]
    rows = [read_results(folder.path) for folder in folders]
    try:
        scores = tuple(fold_score(of_fold) for of_fold in rows)
    except UserError as problem:
        return Trial(number, values, error=str(problem))
    for folder in folders:
        folder.model.unlink(missing_ok=True)
        folder.last.unlink(missing_ok=True)
    seconds = sum(of_fold[0].seconds or 0.0 for of_fold in rows)
    return Trial(number, values, sum(scores) / len(scores), scores, round(seconds, 1))


def write_best(study: Study, best: Trial) -> None:
    """Write the options of the runs, with the outer split and the values of a trial, as YAML."""
    in_file = {} if study.config_file is None else read_yaml(Path(study.config_file))
    values = {**in_file, **study.given, "method": study.options.method.name, **best.values}
    if "steps" in best.values:
        values.pop("epochs", None)
    kept = {name: value for name, value in values.items() if name not in ("out", "resume", "overwrite")}
    write_text(study.out / BEST, dump_yaml(kept))


def train_best(study: Study, best: Trial) -> list[ResultRow]:
    """Train on the whole episode with the values of a trial, and return the result rows."""
    devices = {"device": study.search.devices[0]} if study.search.devices else {}
    out = study.out / f"train-trial-{best.number}"
    return train_from({"config": study.out / BEST, "out": out, "resume": True, **devices})


def print_trials(outcome: Tuning) -> None:
    """Print all trials, the best one first."""
    names = list(outcome.best.values)
    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("trial", "score", "folds", "seconds", *names):
        table.add_column(heading, justify="right")
    for trial in sorted(outcome.trials, key=lambda trial: (-(trial.score or -1.0), trial.number)):
        score = "failed" if trial.score is None else f"{100 * trial.score:.1f} %"
        folds = " ".join(f"{100 * value:.1f}" for value in trial.scores)
        cells = (str(trial.number), score, folds, f"{trial.seconds:.0f}")
        table.add_row(*cells, *(str(trial.values.get(name, "")) for name in names))
    Console(highlight=False, soft_wrap=True).print(table)
    print(outcome.config)


def describe(trial: Trial) -> str:
    """Return a trial in one line."""
    values = ", ".join(f"{name} {value}" for name, value in trial.values.items())
    result = f"failed: {trial.error}" if trial.score is None else f"{100 * trial.score:.1f} %"
    return f"trial {trial.number}: {result} ({trial.seconds:.0f} s): {values}"
