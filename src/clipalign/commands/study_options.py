"""Options of the commands that run many models: `sweep`, `reproduce` and `bench`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..core.config import Options, facts
from ..core.errors import UserError


@dataclass(frozen=True)
class SweepConfig(Options):
    """Run every run of a study that is not finished: methods x data x targets x seeds x options."""

    config: Path = field(metadata=facts(unit="FILE"))
    """YAML file of the study. Its keys are methods, data, protocol, targets, seeds, options and grid."""
    out: Path = field(metadata=facts(unit="DIR"))
    """Folder of the study. Each run is a folder in it; finished runs are kept, others are resumed."""
    jobs: int = field(default=1, metadata=facts(unit="COUNT", at_least=1))
    """Runs at a time, one process each."""
    devices: tuple[str, ...] = field(default=(), metadata=facts(unit="DEVICE", unset="auto"))
    """Devices of the processes, such as cuda:0 cuda:1."""
    shard: str | None = field(default=None, metadata=facts(unit="K/N"))
    """Run the K-th of N parts. For N machines that share --out, or whose folders are merged later."""
    slurm: int | None = field(default=None, metadata=facts(unit="TASKS", at_least=1))
    """Print a SLURM array script and run nothing. It has this many tasks, one shard each."""
    dry_run: bool = False
    """Print the runs and their commands, and run nothing."""

    def __post_init__(self) -> None:
        super().__post_init__()
        part_of(self.shard)


@dataclass(frozen=True)
class ReproduceConfig(Options):
    """Run the study of a published table or figure with the published recipe, and compare cell by cell."""

    name: str | None = field(default=None, metadata=facts(positional=True))
    """Name in `clipalign reproduce --list`."""
    list: bool = False
    """Print the names of tables and figures, with their numbers of runs."""
    data_root: Path | None = field(default=None, metadata=facts(unit="DIR"))
    """Folder of published sets."""
    out: Path | None = field(default=None, metadata=facts(unit="DIR", unset="runs/reproduce/NAME"))
    """Folder of the study. Gets the runs, study.yaml, report.md, report.html and cells.csv; finished runs are kept."""
    dry_run: bool = False
    """Print the commands of all runs, and run nothing. Needs no data."""
    methods: tuple[str, ...] = field(default=(), metadata=facts(unit="NAME", unset="all"))
    """Lines of the study to run."""
    targets: tuple[str, ...] = field(default=(), metadata=facts(unit="DOMAIN", unset="all"))
    """Targets to run. Means over targets need all of them."""
    seeds: int | None = field(
        default=None, metadata=facts(unit="COUNT", unset="the publication's", at_least=1)
    )
    """Seeds per run."""
    data: str | None = field(default=None, metadata=facts(unit="DATA", unset="the publication's"))
    """Run the methods on another data set, such as pictograms. Each method is compared with the mean of its published
    values; no cell is comparable."""
    set: tuple[str, ...] = field(default=(), metadata=facts(unit="K=V"))
    """Options that replace those of every run, such as steps=100. Cells are then not comparable."""
    jobs: int = field(default=1, metadata=facts(unit="COUNT", at_least=1))
    """Runs at a time, one process each."""
    devices: tuple[str, ...] = field(default=(), metadata=facts(unit="DEVICE", unset="auto"))
    """Devices of the processes, such as cuda:0 cuda:1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name is None and not self.list:
            raise UserError("reproduce needs the NAME of a table; `clipalign reproduce --list` prints them")
        for text in self.set:
            if not text.partition("=")[0].isidentifier() or "=" not in text:
                raise UserError(f"--set: {text} must be OPTION=VALUE, such as steps=100")


@dataclass(frozen=True)
class BenchConfig(Options):
    """Time a few optimiser steps of each method, with the options it was published with."""

    what: Literal["methods"] = field(metadata=facts(positional=True))
    """methods."""
    methods: tuple[str, ...] = field(default=(), metadata=facts(unit="NAME", unset="all"))
    """Names of methods."""
    guides: tuple[str, ...] = field(default=(), metadata=facts(unit="NAME", unset="the method's"))
    """Guides of alignclip, such as dv vvv. Methods with the option --guide are measured once with each; AlignCLIP's
    Table 10 compares dv and vvv."""
    backbones: tuple[str, ...] = field(
        default=("pocket:random", "ViT-B-16:random"), metadata=facts(unit="MODEL")
    )
    """Backbones as in `clipalign train`. Cost does not depend on the weights."""
    steps: int = field(default=3, metadata=facts(unit="STEPS", at_least=1))
    """Steps timed per method, after a warm-up step."""
    batch_size: int = field(default=8, metadata=facts(unit="IMAGES", at_least=1))
    """Images per step, the same for every method."""
    classes: int = field(default=50, metadata=facts(unit="COUNT", at_least=1))
    """Number of classes. Matters to methods that run the text tower in every step."""
    device: str = field(default="auto", metadata=facts(unit="DEVICE"))
    """auto, cpu, cuda or cuda:N."""
    clock: Literal["wall", "cpu"] = "wall"
    """wall: elapsed time; cpu: processor time of the process. The latter suits a shared machine."""
    out: Path | None = field(default=None, metadata=facts(unit="DIR"))
    """Folder for bench.json and bench.md. Must be new or empty without --overwrite."""
    overwrite: bool = False
    """Replace the results in --out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.backbones:
            raise UserError("--backbones: name at least one")


def part_of(shard: str | None) -> tuple[int, int]:
    """Parse a shard; None is the whole study.

    Raises:
        UserError: the shard is not K/N with K from 1 to N.

    >>> part_of("3/8"), part_of(None)
    ((3, 8), (1, 1))
    """
    part, _, parts = (shard or "1/1").partition("/")
    if not (part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise UserError(f'--shard must be K/N with K from 1 to N, such as 3/8, not "{shard}"')
    return int(part), int(parts)
