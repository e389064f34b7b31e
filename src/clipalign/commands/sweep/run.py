"""`clipalign sweep`: all runs of a study file, resumed after interruptions."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...core.errors import UserError
from ...core.parsing import make_config, parse_config
from ...report.collect import find_runs
from ...report.render import print_tables
from ...report.tables import all_tables
from ...runs.folder import RunFolder
from ..study_options import SweepConfig, part_of
from .pool import run_all
from .progress import Progress
from .study import Job, read_study


@dataclass(frozen=True)
class Sweep:
    """Outcome of a study.

    Attributes:
        out: folder of the study.
        done: names of the runs with results.
        failed: name of a failed run -> what went wrong.
    """

    out: Path
    done: tuple[str, ...]
    failed: dict[str, str]


def sweep(
    config: str | Path,
    out: str | Path,
    *,
    jobs: int = 1,
    devices: Sequence[str] = (),
    shard: str | None = None,
) -> Sweep:
    """Run every run of a study that is not finished, as `clipalign sweep` does.

    Args:
        config: YAML file of the study.
        out: folder of the study.

    The keywords are the options of the command line; see `SweepConfig`.

    Raises:
        UserError: the study is invalid; no run has been started then.
    """
    return _sweep(make_config(SweepConfig, locals()))


def run_sweep(tokens: Sequence[str], prog: str = "clipalign sweep") -> Sweep | None:
    """Run a study as a command line says, and print the tables.

    Returns:
        The outcome; None with --slurm or --dry-run.

    Raises:
        SystemExit: runs failed; raised at the end, with status 1.
    """
    config = parse_config(SweepConfig, tokens, prog)
    if config.slurm is not None:
        print(slurm_script(config), end="")
        return None
    if config.dry_run:
        for job in _jobs(config):
            state = "done" if RunFolder(config.out / job.name).done else "to do"
            print(f"{state}  {job.command(config.out)}")
        return None
    outcome = _sweep(config)
    if outcome.done:
        print_tables(all_tables(row for run in find_runs(config.out) for row in run.rows()))
    for name, error in outcome.failed.items():
        print(f"failed: {name}: {error}")
    if outcome.failed:
        raise SystemExit(1)
    return outcome


def _jobs(config: SweepConfig) -> list[Job]:
    """Return the runs of the study, or of its shard."""
    part, parts = part_of(config.shard)
    return read_study(config.config)[part - 1 :: parts]


def _sweep(config: SweepConfig) -> Sweep:
    jobs = _jobs(config)
    if config.out.exists() and not config.out.is_dir():
        raise UserError(f"--out: {config.out} is a file, not a folder")
    for job in jobs:  # all options are checked before the first run starts, those of finished runs too
        try:
            job.check(config.out)
        except UserError as error:
            raise UserError(f"{job.name}: {str(error).replace('--resume: ', '')}") from None
    waiting = [job for job in jobs if not RunFolder(config.out / job.name).done]
    config.out.mkdir(parents=True, exist_ok=True)
    with Progress(jobs, config.out) as progress:
        for event in run_all(waiting, config.out, config.jobs, config.devices):
            progress.update(event)
    done = tuple(job.name for job in jobs if RunFolder(config.out / job.name).done)
    return Sweep(config.out, done, progress.failed)


def slurm_script(config: SweepConfig) -> str:
    """Return a script for `sbatch` with one shard per task; a killed task can be resubmitted unchanged."""
    count = min(config.slurm or 1, len(read_study(config.config)))
    command = ["clipalign", "sweep", "--config", str(config.config), "--out", str(config.out)]
    if config.jobs > 1:
        command += ["--jobs", str(config.jobs)]
    return "\n".join(
        [
            "#!/bin/bash",
            f"#SBATCH --job-name={config.config.stem}",
            f"#SBATCH --array=1-{count}",
            "#SBATCH --output=%x-%a.log",
            "#SBATCH --requeue",
            "# Add the options of your cluster: partition, time, --gres=gpu:1, --cpus-per-task.",
            f'{shlex.join(command)} --shard "${{SLURM_ARRAY_TASK_ID}}/{count}"',
            "",
        ]
    )
