"""From a study file to its runs: methods x data x targets x seeds x options.

    methods: [zeroshot, erm, alignclip]   # or a mapping of methods (or own names, with `method:`) to options
    data: pictograms                      # or a list of names, or of mappings with data options
    protocol: in-the-wild                 # one or several
    targets: all                          # or a list; omitted if the protocol has none
    seeds: 3                              # a count, or a list
    options: {steps: 300}                 # of all runs whose method has them
    grid: {lr: [1.0e-5, 1.0e-4]}          # all combinations

Later layers win: `options`, options of a data set, options of a method, the grid.
"""

from __future__ import annotations

import itertools
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from ...core.config import DataOptions, MetricOptions, SplitOptions, TrainConfig
from ...core.errors import UserError
from ...core.fields import options_of
from ...core.parsing import make_config, reject_unknown
from ...core.yaml_files import read_yaml
from ...data.registry import source_from
from ...methods import Method, get_method
from ...protocols import default_protocol
from ...runs.folder import RunFolder, check_same
from ...runs.options import TrainOptions, train_command, train_options_from, train_parser

MAX_SEEDS = 10_000
KEYS = {"methods", "data", "protocol", "targets", "seeds", "options", "grid"}
# Options that the sweep sets for each run.
RUN_OPTIONS = {"out", "resume", "overwrite", "method", "seed", "config"}
ZEROSHOT = "zeroshot"
# Zero-shot runs that agree in these options are the same run.
ZEROSHOT_OPTIONS = {
    *options_of(DataOptions, SplitOptions, MetricOptions),
    *("backbone", "template", "names", "pooling", "precision", "recipe"),
}

Options = dict[str, Any]  # values of a YAML file; `train_options_from` parses and checks them


@dataclass(frozen=True)
class Job:
    """One run of a study.

    Attributes:
        name: folder of the run, relative to that of the study: DATA/PROTOCOL/TARGET/METHOD/seed-N.
        method, data, protocol, target, seed: identify the run in tables.
        options: all options of `clipalign train` except --out.
    """

    name: str
    method: str
    data: str
    protocol: str
    target: str | None
    seed: int
    options: Mapping[str, Any]

    @property
    def label(self) -> str:
        """Method, as the study file names it, with its values of the grid."""
        return self.name.split("/")[-2]

    @property
    def task(self) -> str:
        """Data, protocol and target."""
        return f"{self.data}, {self.protocol}" + (f", {self.target}" if self.target else "")

    def values(self, out: Path) -> Options:
        """Return the options of `clipalign train`."""
        return {**self.options, "out": out / self.name}

    def command(self, out: Path) -> str:
        """Return the command of the run."""
        return train_command(self.values(out))

    def check(self, out: Path) -> TrainOptions:
        """Resolve the options and compare them with those of a run that exists already.

        Raises:
            UserError: an option is invalid, or differs from that of the existing run.
        """
        options = train_options_from(self.values(out))
        folder = RunFolder(out / self.name)
        if folder.config.is_file():
            check_same(folder, options)
        return options


@dataclass(frozen=True)
class MethodEntry:
    """An entry of `methods`.

    Attributes:
        label: its name in folders.
        method: the method.
        options: its options.
    """

    label: str
    method: type[Method]
    options: Options


@dataclass(frozen=True)
class DataEntry:
    """An entry of `data`, under one protocol and with one target.

    Attributes:
        name: its name in folders.
        options: its options, the protocol included if the file names one.
        target: held-out domain; None if the protocol has none.
    """

    name: str
    options: Options
    target: str | None


def read_study(path: Path) -> list[Job]:
    """Return the runs of a study file, seed by seed, so that a table with all methods is available early.

    Raises:
        UserError: the file cannot be read, has an unknown key, method or option, or two runs have the same name.
    """
    study = read_yaml(path)
    where = f"{path}: "
    reject_unknown(study, KEYS, where)
    if "methods" not in study:
        raise UserError(f"{where}methods: is missing; name one or several of `clipalign list methods`")
    methods = _methods(study["methods"], where)
    options, grid = _mapping(study.get("options"), "options", where), _grid(study.get("grid"), where)
    _check_names(options, methods, f"{where}options: ")
    _check_names(grid, methods, f"{where}grid: ")
    for entry in methods:
        _check_names(entry.options, [entry], f"{where}methods: {entry.label}: ")

    jobs: dict[str, Job] = {}
    seeds = _seeds(study.get("seeds", 1), where)
    for seed in seeds:
        for data, method, chosen in itertools.product(
            _data(study, options, where), methods, _combinations(grid)
        ):
            layers = {**options, **data.options, **method.options, **chosen}
            # Zero-shot is deterministic: one run covers all seeds.
            job = _job(method, data, seeds[0] if method.method.name == ZEROSHOT else seed, layers, chosen)
            if jobs.setdefault(job.name, job) != job:
                raise UserError(f"{where}two different runs are called {job.name}; give data a name:")
    return list(jobs.values())


def _job(entry: MethodEntry, data: DataEntry, seed: int, layers: Options, chosen: Options) -> Job:
    """Return one run.

    Args:
        entry: method.
        data: data, protocol and target.
        seed: seed of the run.
        layers: options of all layers; those that the method does not have are dropped.
        chosen: values of the grid, which are part of the run's name.
    """
    method = entry.method
    known = ZEROSHOT_OPTIONS if method.name == ZEROSHOT else set(options_of(TrainConfig, method.Config))
    options = {key: value for key, value in layers.items() if key in known}
    protocol = str(options.get("protocol") or default_protocol(method.learns_from == "captions"))
    variant = ",".join(f"{key}={_word(value)}" for key, value in chosen.items() if key in known)
    label = f"{entry.label},{variant}" if variant else entry.label
    parts = (data.name, protocol, data.target or "no-target", label)
    name = "/".join([*map(slug, parts), f"seed-{seed}"])
    options |= {"protocol": protocol, "method": method.name, "seed": seed}
    if data.target is not None:
        options["target"] = data.target
    return Job(name, method.name, data.name, protocol, data.target, seed, options)


def slug(text: str) -> str:
    """Return a file name that all file systems accept.

    >>> slug("hf:org/name"), slug("lr=1e-05,guide=dv")
    ('hf-org-name', 'lr=1e-05,guide=dv')
    """
    return re.sub(r"[^\w.,=+-]+", "-", text).strip("-.") or "x"


def _data(study: Options, options: Options, where: str) -> Iterator[DataEntry]:
    """Yield each data set under each of its protocols, with each of its targets."""
    for entry in _list(study.get("data", options.get("data", DataOptions.data))):
        own = dict(entry) if isinstance(entry, Mapping) else {"data": str(entry)}
        if "data" not in own:
            raise UserError(f"{where}data: an entry without data: ({own})")
        name = str(own.pop("name", None) or Path(str(own["data"])).stem or own["data"])
        protocols = _list(own.pop("protocol", study.get("protocol", options.get("protocol"))))
        targets = own.pop("targets", study.get("targets"))
        reject_unknown(own, options_of(TrainConfig).keys() - RUN_OPTIONS, f"{where}data: {name}: ")
        for protocol in protocols:
            under = own if protocol is None else own | {"protocol": str(protocol)}
            for target in _targets(targets, {**options, **own}, where):
                yield DataEntry(name, under, target)


def _targets(targets: object, options: Options, where: str) -> list[str | None]:
    if targets is None:
        return [None]
    if targets != "all":
        return [str(target) for target in _list(targets)]
    named = {name: value for name, value in options.items() if name in options_of(DataOptions)}
    source = source_from(make_config(DataOptions, named))
    if len(source.domain_names) < 2:
        raise UserError(f"{where}targets: all needs data with several domains; {source.name} has one")
    return list(source.domain_names)


def _methods(given: object, where: str) -> list[MethodEntry]:
    """Return the entries of `methods`: a name, a list of names, or a mapping of labels to options."""
    if not isinstance(given, Mapping):
        methods = {method.name: method for method in (get_method(str(name)) for name in _list(given))}
        return [MethodEntry(name, method, {}) for name, method in methods.items()]
    entries = []
    for label, options in given.items():
        own = _mapping(options, f"methods: {label}", where)
        method = get_method(str(own.pop("method", label)))
        entries.append(MethodEntry(str(label), method, own))
    return entries


def _seeds(given: object, where: str) -> list[int]:
    """Return the seeds of `seeds`: their number, or a list of them.

    Raises:
        UserError: not a positive number, or an entry that is no seed.
    """
    if is_integer(given) and 1 <= given <= MAX_SEEDS:
        return list(range(given))
    if isinstance(given, list) and given and all(is_integer(seed) and seed >= 0 for seed in given):
        return given
    raise UserError(
        f"{where}seeds: must be a number from 1 to {MAX_SEEDS} or a list of seeds such as [0, 1], "
        f"not {reprlib.repr(given)}"
    )


def is_integer(value: object) -> TypeGuard[int]:
    """Return whether a value of YAML is an integer; True is none."""
    return isinstance(value, int) and not isinstance(value, bool)


def _grid(given: object, where: str) -> dict[str, list[Any]]:
    grid = {name: _list(values) for name, values in _mapping(given, "grid", where).items()}
    for name, values in grid.items():
        if not values:
            raise UserError(f"{where}grid: {name} has no values")
    return grid


def _combinations(grid: Mapping[str, Sequence[Any]]) -> Iterator[Options]:
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def _check_names(names: Iterable[str], methods: Sequence[MethodEntry], where: str) -> None:
    """Raise UserError for an option that the sweep sets, or that none of the methods has."""
    parsers = [train_parser(entry.method) for entry in methods]
    for name in names:
        if name in RUN_OPTIONS:
            raise UserError(f"{where}{name} is set by the sweep, run by run")
        if not any(name in parser.options for parser in parsers):
            parsers[0].reject_unknown([name], where)


def _mapping(given: object, name: str, where: str) -> Options:
    """Return the options of a YAML mapping, with underscores in their names."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise UserError(f"{where}{name}: must hold option: value lines")
    return {str(key).replace("-", "_"): value for key, value in given.items()}


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _word(value: object) -> str:
    return "+".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
