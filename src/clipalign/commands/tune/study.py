"""A search in progress: its inner episodes, the runs of its trials, and its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...core.checkpoint import write_text
from ...core.config import flag
from ...core.errors import UserError
from ...core.search import Value
from ...core.types import Episode
from ...core.yaml_files import dump_yaml, read_yaml
from ...data.registry import source_from
from ...protocols import default_protocol, nested_episodes, write_split
from ...protocols.nested import unread_episode
from ...runs.folder import RESULT_NEUTRAL
from ...runs.options import GIVEN, TrainOptions, train_options_from
from ..sweep.study import Job
from ..tune_options import SearchOptions
from .sampling import Space, random_values, search_space, tpe_values
from .trials import Trial, read_trials

CONFIG, FOLDS = "tune.yaml", "folds"


@dataclass
class Study:
    """A search in progress.

    Attributes:
        out: folder of the search.
        options: of the runs without a search.
        search: options of the search.
        config_file: YAML file of --config, below the given options.
        given: options of the command line or of the call, without `out`.
        episodes: inner episodes.
        space: distributions of the searched options.
        trials: trials with results or an error, by number.
    """

    out: Path
    options: TrainOptions
    search: SearchOptions
    config_file: str | None
    given: dict[str, Any]
    episodes: list[Episode]
    space: Space
    trials: dict[int, Trial] = field(default_factory=dict)

    def values(self, number: int) -> dict[str, Value]:
        """Return the values of a trial, which are the same after an interruption."""
        seed = self.options.config.run.seed
        if self.search.sampler == "random":
            return random_values(self.space, seed, number)
        return tpe_values(self.space, seed, number, [t for n, t in self.trials.items() if n < number])

    def jobs(self, number: int, values: Mapping[str, Value]) -> list[Job]:
        """Return the runs of a trial, one per inner episode, as ordinary runs of `clipalign train`."""
        run = self.options.config.run
        jobs = []
        for k, inner in enumerate(self.episodes, 1):
            split = {
                "protocol": inner.protocol,
                "target": inner.target,
                "target_split": None,
                "split_file": str(self.fold_file(k)),
            }
            options = {**self.base(), **values, **split}
            data = self.options.config.data.data
            name = f"trial-{number}/fold-{k}"
            jobs.append(
                Job(name, self.options.method.name, data, inner.protocol, inner.target, run.seed, options)
            )
        return jobs

    def base(self) -> dict[str, Any]:
        """Return the options that are the same in all runs; `config` is the file of --config."""
        config = {} if self.config_file is None else {"config": self.config_file}
        return {**config, "method": self.options.method.name, **self.given}

    def fold_file(self, number: int) -> Path:
        """Return the split file of an inner episode."""
        return self.out / FOLDS / f"fold-{number}.json"

    def write_or_check(self) -> None:
        """Write the facts of the search and the split files, or check that the folder holds the same search.

        Raises:
            UserError: a fact differs; the message names the first one.
        """
        options = {name: v for name, v in self.options.flat().items() if name not in RESULT_NEUTRAL}
        facts = {
            **options,
            "sampler": self.search.sampler,
            "space": {name: str(distribution) for name, distribution in self.space.items()},
            "folds": [episode.split_hash for episode in self.episodes],
        }
        path = self.out / CONFIG
        stored = read_yaml(path) if path.is_file() else facts
        for name, value in facts.items():
            if stored.get(name) != value:
                raise UserError(
                    f"--out: {self.out} holds a search with {name.replace('_', '-')} = {stored.get(name)}, not "
                    f"{value}; choose another folder"
                )
        if not path.is_file():
            for k, episode in enumerate(self.episodes, 1):
                self.fold_file(k).parent.mkdir(parents=True, exist_ok=True)
                write_split(self.fold_file(k), episode, self.options.config.split.split_seed)
            write_text(path, dump_yaml(facts))


def prepare_study(options: TrainOptions, search: SearchOptions, config_file: str | None) -> Study:
    """Validate a search, write its folder, and read the trials that it already has.

    Raises:
        UserError: invalid input, or the folder holds another search.
    """
    config, method, out = options.config, options.method, options.config.run.out
    if used := [name for name in ("resume", "overwrite") if options.origins.get(name) == GIVEN]:
        raise UserError(f"tune: {flag(used[0])} does not apply; a search in --out is always continued")
    if method.learns_from == "captions":
        raise UserError(
            f"tune: nested validation needs classes, and --method {method.name} learns from captions"
        )
    if out.exists() and not out.is_dir():
        raise UserError(f"--out: {out} is a file, not a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / CONFIG).is_file():
        raise UserError(f"--out: {out} is not empty and holds no search; choose another folder")

    values, origins = options.flat(), options.origins
    given = {name: values[name] for name, origin in origins.items() if origin == GIVEN and name != "out"}
    space = search_space(
        options, {name for name, origin in origins.items() if origin in (GIVEN, config_file)}
    )
    source = source_from(config.data)
    usual = default_protocol(captions=False, domains=len(source.domain_names))
    split = replace(config.split, protocol=config.split.protocol or usual)
    outer = unread_episode(split, source)
    episodes = nested_episodes(outer, search.folds, split.split_seed)
    study = Study(out, options, search, config_file, given, episodes, space)
    for job in study.jobs(1, study.values(1)):
        train_options_from(job.values(out))
    study.write_or_check()
    study.trials = read_trials(out)
    return study
