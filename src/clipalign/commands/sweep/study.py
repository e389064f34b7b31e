"""A study file -> its runs: methods x data x targets x seeds x options.

    methods: [zeroshot, erm, alignclip]   # or a mapping of a method, or of a name of yours, to options of its own
    data: pictograms                      # or a list of names, or of mappings with options of DataConfig
    protocol: in-the-wild                 # one or several
    targets: all                          # or a list; left out where the protocol has none
    seeds: 3                              # a count, or a list
    options: {steps: 300}                 # of every run whose method has them
    grid: {lr: [1.0e-5, 1.0e-4]}          # every combination

Later ones win: options, those of a data set, those of a method, the grid.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.config import DataOptions, SplitOptions, TrainConfig
from ...core.errors import UserError
from ...core.fields import options_of
from ...core.parsing import make_config, reject_unknown
from ...core.yaml_files import read_yaml
from ...data.registry import source_from
from ...methods import Method, get_method
from ...protocols import usual_protocol
from ...runs.folder import RunFolder, check_same
from ...runs.options import TrainOptions, train_command, train_options_from, train_parser

KEYS = {"methods", "data", "protocol", "targets", "seeds", "options", "grid"}
# Set by the sweep itself, run by run.
OWN = {"out", "resume", "overwrite", "method", "seed", "config"}
ZEROSHOT = "zeroshot"
# What zero-shot predictions depend on; runs that differ in other options share one.
ZEROSHOT_OPTIONS = {*options_of(DataOptions, SplitOptions), "backbone", "template", "precision"}

Options = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One run of a study.

    Attributes:
        name: its folder below the study's; says what it is.
        method, data, protocol, target, seed: for tables.
        options: of `clipalign train`, all but --out.
    """

    name: str
    method: str
    data: str
    protocol: str
    target: str | None
    seed: int
    options: Mapping[str, Any]

    def values(self, out: Path) -> Options:
        """Return the options of `clipalign train`."""
        return {**self.options, "out": out / self.name}

    def command(self, out: Path) -> str:
        """Return the command of the run."""
        return train_command(self.values(out))

    def check(self, out: Path) -> TrainOptions:
        """Resolve the options, and compare them with those of a run that exists already.

        Raises:
            UserError: invalid options, or other ones than those of the run in the folder.
        """
        options = train_options_from(self.values(out))
        folder = RunFolder(out / self.name)
        if folder.config.is_file():
            check_same(folder, options)
        return options


def read_study(path: Path) -> list[Job]:
    """The runs of a study file, in the order in which they are started: seed by seed, so that a table of
    everything is there early.

    Raises:
        UserError: a file that cannot be read, an unknown key, method or option, two runs of one name.
    """
    study = read_yaml(path)
    reject_unknown(study, KEYS, f"{path}: ")
    where = f"{path}: "
    if "methods" not in study:
        raise UserError(f"{where}methods: is missing; name one or several of `clipalign list methods`")
    methods = _methods(study["methods"], where)
    options, grid = _mapping(study.get("options"), "options", where), _grid(study.get("grid"), where)
    known = [method for method, _ in methods.values()]
    _check_names(options, known, f"{where}options: ")
    _check_names(grid, known, f"{where}grid: ")
    for name, (method, own) in methods.items():
        _check_names(own, [method], f"{where}methods: {name}: ")
    seeds = study.get("seeds", 1)
    seeds = list(range(seeds)) if isinstance(seeds, int) else [int(seed) for seed in _list(seeds)]

    jobs: dict[str, Job] = {}
    for seed in seeds:
        for data_name, data_options, target in _places(study, options, where):
            for name, (method, own) in methods.items():
                for chosen in _combinations(grid):
                    layers = {**options, **data_options, **own, **chosen}
                    job = _job(name, get_method(method), data_name, target, seed, layers, chosen, seeds[0])
                    earlier = jobs.setdefault(job.name, job)
                    if earlier != job:
                        raise UserError(f"{where}two different runs are called {job.name}; give data a name:")
    return list(jobs.values())


def _job(
    label: str,
    method: type[Method],
    data: str,
    target: str | None,
    seed: int,
    layers: Options,
    chosen: Options,
    first_seed: int,
) -> Job:
    known = set(options_of(TrainConfig, method.Config))
    if method.name == ZEROSHOT:
        # It draws nothing and trains nothing: one run stands for all seeds and all options of training.
        seed, known = first_seed, ZEROSHOT_OPTIONS
    options = {key: value for key, value in layers.items() if key in known}
    protocol = str(options.get("protocol") or usual_protocol(method.learns_from == "captions"))
    variant = ",".join(f"{key}={_word(value)}" for key, value in chosen.items() if key in known)
    parts = [data, protocol, target or "no-target", f"{label},{variant}" if variant else label]
    name = "/".join([*(slug(part) for part in parts), f"seed-{seed}"])
    options |= {"protocol": protocol, "method": method.name, "seed": seed} | (
        {} if target is None else {"target": target}
    )
    return Job(name, method.name, data, protocol, target, seed, options)


def slug(text: str) -> str:
    """A word that any file system takes."""
    return re.sub(r"[^\w.,=+-]+", "-", text).strip("-.") or "x"


def _places(study: Options, options: Options, where: str) -> Iterator[tuple[str, Options, str | None]]:
    """Name and options of each data set under each protocol, with each target."""
    for entry in _list(study.get("data", options.get("data", DataOptions.data))):
        own = dict(entry) if isinstance(entry, Mapping) else {"data": str(entry)}
        if "data" not in own:
            raise UserError(f"{where}data: an entry without data: ({own})")
        name = str(own.pop("name", None) or Path(str(own["data"])).stem or own["data"])
        protocols = _list(own.pop("protocol", study.get("protocol", options.get("protocol"))))
        targets = own.pop("targets", study.get("targets"))
        reject_unknown(own, options_of(TrainConfig).keys() - OWN, f"{where}data: {name}: ")
        for protocol in protocols:
            for target in _targets(targets, {**options, **own}, where):
                yield name, own | ({} if protocol is None else {"protocol": str(protocol)}), target


def _targets(targets: Any, options: Options, where: str) -> list[str | None]:
    if targets is None:
        return [None]
    if targets != "all":
        return [str(target) for target in _list(targets)]
    named = {name: value for name, value in options.items() if name in options_of(DataOptions)}
    source = source_from(make_config(DataOptions, named))
    if len(source.domain_names) < 2:
        raise UserError(f"{where}targets: all needs data with several domains; {source.name} has one")
    return list(source.domain_names)


def _methods(given: Any, where: str) -> dict[str, tuple[str, Options]]:
    """Name in folders -> method and options of its own. Several names may be of one method, which `method:` tells."""
    if not isinstance(given, Mapping):
        return {get_method(str(name)).name: (str(name), {}) for name in _list(given)}
    found = {}
    for name, options in given.items():
        own = _mapping(options, f"methods: {name}", where)
        found[str(name)] = (get_method(str(own.pop("method", name))).name, own)
    return found


def _grid(given: Any, where: str) -> dict[str, list[Any]]:
    grid = {name: _list(values) for name, values in _mapping(given, "grid", where).items()}
    for name, values in grid.items():
        if not values:
            raise UserError(f"{where}grid: {name} has no values")
    return grid


def _combinations(grid: Mapping[str, Sequence[Any]]) -> Iterator[Options]:
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def _check_names(names: Iterable[str], methods: Sequence[str], where: str) -> None:
    """Every option has to be one of the runs, or of at least one of the methods."""
    parsers = [train_parser(get_method(method)) for method in methods]
    for name in names:
        if name in OWN:
            raise UserError(f"{where}{name} is set by the sweep, run by run")
        if not any(name in parser.options for parser in parsers):
            parsers[0].reject_unknown([name], where)


def _mapping(given: Any, name: str, where: str) -> Options:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise UserError(f"{where}{name}: must hold option: value lines")
    return {str(key).replace("-", "_"): value for key, value in given.items()}


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _word(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
