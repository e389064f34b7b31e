"""`clipalign train --dry-run`: print what a run would do, its memory and its time, and write nothing."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch

from ..core import distributed
from ..core.config import TrainConfig
from ..core.precision import select_device
from ..core.types import Episode
from ..engine.console import run_lines
from ..engine.fit import fit
from ..engine.log import RunLog
from ..engine.progress import Reporter
from ..engine.setup import PreparedRun, RunCache, prepare
from ..engine.validation import make_validation
from ..runs.folder import MetricLine, RunFolder, check_out
from ..runs.options import GIVEN, TrainOptions
from .bench.machine import peak, reset_peak

TIMED = 3  # steps, after one that allocates optimiser state and caches


class Enough(Exception):
    """Ends the training loop after the timed steps."""


class StepClock(RunLog):
    """A log that writes nothing, records when each step ends, and ends the loop after the timed steps."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        super().__init__(RunFolder(folder), Reporter(enabled=False), is_main=False)
        self.device, self.ends = device, list[float]()

    def step(self, step: int, total: int, line: MetricLine | None) -> None:
        """Record the end of a step.

        Raises:
            Enough: after the last timed step.
        """
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.ends.append(time.perf_counter())
        if len(self.ends) > TIMED:
            raise Enough

    @property
    def seconds(self) -> float:
        """Median duration of the timed steps, loading of images included."""
        return statistics.median(b - a for a, b in zip(self.ends, self.ends[1:], strict=False))


def dry_run(options: TrainOptions) -> None:
    """Print data, splits, method and parameters of a run, and its memory and time from a few steps.

    Raises:
        UserError: as training would.
    """
    config = options.config.run
    if options.origins.get("out") == GIVEN:
        check_out(config.out, overwrite=config.overwrite, resume=config.resume)
    ranks = distributed.start(select_device(config.device))
    try:
        reporter = Reporter(ranks.is_main)
        run = prepare(options, ranks, RunCache())
        for line in [*run_lines(run), *split_lines(run.episode)]:
            reporter.result(line)
        if run.batches is not None:
            for line in cost_lines(run):
                reporter.result(line)
        reporter.result("dry run: nothing was written")
    finally:
        distributed.stop()


def split_lines(episode: Episode) -> Iterator[str]:
    """Yield the rule of the split and the size of each test set."""
    yield f"split: {episode.rule}"
    for test in episode.tests:
        yield f'test set "{test.name}": {len(test.rows)} rows among {len(test.classes)} classes'
    for captions in episode.caption_tests:
        yield f'test set "{captions.name}": {len(captions.rows)} images, {len(captions.texts)} captions'


def cost_lines(run: PreparedRun) -> Iterator[str]:
    """Take a few steps, and yield estimates of memory and time. The method is trained by these steps."""
    assert run.batches is not None
    device, steps = run.ranks.device, run.options.config.schedule.steps
    clock = StepClock(run.options.config.run.out, device)
    validation = make_validation(run.episode, run.loader, 0, run.options.config.recipe.augment)
    reset_peak()
    with contextlib.suppress(Enough):
        fit(run.method, without_files(run.options.config), run.batches, validation, run.precision, clock)
    used = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak()
    where = "GPU memory" if device.type == "cuda" else "memory of this process"
    yield f"memory: {used / 2**30:.1f} GiB, the peak of {where} in {TIMED + 1} steps"
    total = timedelta(seconds=round(steps * clock.seconds))
    yield (
        f"time: {clock.seconds:.2f} s per step (median of {TIMED}), {total} for {steps} steps; validation and tests "
        "are not included"
    )


def without_files(config: TrainConfig) -> TrainConfig:
    """Return options with which the loop neither writes a checkpoint, nor resumes, nor validates in these steps."""
    return replace(
        config,
        run=replace(config.run, checkpoint_every=0, resume=False),
        evaluation=replace(config.evaluation, validate_every=0),
        schedule=replace(config.schedule, steps=max(config.schedule.steps, TIMED + 2)),
    )
