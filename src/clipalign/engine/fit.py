"""One loop for every method: batches in, losses down, weights out. Read `fit` from top to bottom."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from ..core.checkpoint import load_state, save_state, write_text
from ..core.config import TrainConfig
from ..core.distributed import Ranks
from ..core.errors import UserError
from ..core.precision import Precision, round_to_half
from ..core.types import Batch
from ..data.batches import TrainBatches
from ..methods.base import Method
from ..runs.folder import RunFolder
from .accumulation import backward
from .averaging import make_average
from .optimiser import build_optimizer, build_scheduler
from .progress import Reporter
from .validation import SourceValidation
from .weight_average import WeightAverage
from .writers import Writers


def fit(
    method: Method,
    config: TrainConfig,
    average_kind: str,
    folder: RunFolder,
    steps: TrainBatches,
    validation: SourceValidation,
    precision: Precision,
    reporter: Reporter,
    writers: Writers | None = None,
) -> tuple[WeightAverage, dict[str, float] | None]:
    """Train a method that has been set up.

    With `config.run.resume` and a checkpoint in the folder, goes on from there: every later weight is the same,
    bit for bit, as without the break (on a CPU).

    Args:
        method: its trained tensors are changed in place, to those of the last step.
        config: options of the run.
        average_kind: one of `averaging.KINDS`.
        folder: gets metrics.jsonl and checkpoints.
        steps: batches by step.
        validation: measured every `config.evaluation.validate_every` steps, with the averaged weights.
        precision: autocast and loss scaling.
        reporter: says how it goes.
        writers: get every line of metrics.jsonl too.

    Returns:
        The average; `applied()` puts it into the method for a while. And what was measured with it after the
        last step, where this call has taken that step and the average has not been chosen since.

    Raises:
        UserError: a loss that is not finite.
    """
    ranks, total = steps.ranks, config.schedule.steps
    run, optimiser, averaging = config.run, config.optimiser, config.average
    if not (run.resume and folder.checkpoint.is_file()):
        method.start(validation)
    parameters, rounded = method.parameters(), precision.rounded(method.backbone.model)
    round_to_half(rounded)
    groups = method.param_groups()
    optimizer = build_optimizer(groups, optimiser)
    scheduler = build_scheduler(optimizer, groups, config.schedule, optimiser.lr)
    average = make_average(
        average_kind,
        parameters,
        total,
        ema_decay=averaging.ema_decay,
        bma_beta=averaging.bma_beta,
        gaussian_mean=averaging.gaussian_mean,
        gaussian_std=averaging.gaussian_std,
        gaussian_parts=averaging.gaussian_parts,
        swad_converge=averaging.swad_converge,
        swad_tolerance=averaging.swad_tolerance,
        swad_ratio=averaging.swad_ratio,
    )
    average.accumulate_in_half(rounded)
    meter = Meter()
    state = {"optimizer": optimizer, "scheduler": scheduler, "scaler": precision.scaler, "average": average}
    first = restore(folder, method, state, meter) if run.resume else 0
    metrics = keep_metrics(folder, first) if ranks.first else []
    writers = writers or Writers()
    writers.replay(metrics)
    validate_every = config.evaluation.validate_every
    if validate_every is None:
        validate_every = max(1, total // average.evaluations)
    measured: dict[str, float] | None = None
    reporter.start(total, first)

    for step, batch in enumerate(steps.iterate(first, total, run.workers), first + 1):
        if average.over:  # resumed behind its end
            break
        # Randomness in a loss depends on (seed, step, process) alone: nothing to store, nothing to restore.
        torch.manual_seed(int(np.random.SeedSequence([run.seed, step, ranks.rank, 1]).generate_state(1)[0]))
        optimizer.zero_grad(set_to_none=True)
        terms = backward(
            method,
            batch.to(ranks.device),
            optimiser.batch_size,
            optimiser.micro_batch_size,
            precision,
            ranks,
        )
        total_terms = ranks.sum(torch.stack(list(terms.values())))
        check_finite(step, list(terms), total_terms, batch, ranks)
        ranks.sum_gradients(parameters)
        precision.scaler.unscale_(optimizer)
        round_to_half(p.grad for p in rounded if p.grad is not None)
        norm = clip_grad_norm_(parameters, optimiser.clip_grad_norm or math.inf)
        lr = optimizer.param_groups[0]["lr"]
        precision.scaler.step(optimizer)
        round_to_half(rounded)
        precision.scaler.update()
        scheduler.step()
        average.update(step)
        method.after_step(step)

        meter.add(dict(zip(terms, total_terms, strict=True)) | {"grad_norm": norm}, optimiser.batch_size)
        line: dict[str, Any] | None = None
        measured = None
        if step % run.log_every == 0 or step == total:
            line = {"step": step, **meter.read(), "lr": lr}
        if step == total or (validate_every and step % validate_every == 0):
            with average.applied(), meter.paused():
                measured = validation.of(method)
            line = (line or {"step": step}) | measured
            average.observe(measured["validation_loss"])
        if line is not None:
            metrics.append(line)
            if ranks.first:
                with folder.metrics.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
                writers.line(line)
        reporter.step(step, total, line)
        last = step == total or average.over
        if run.checkpoint_every and (step % run.checkpoint_every == 0 or last) and ranks.first:
            save(folder, step, method, state, meter)
        if average.over:
            reporter.say(f"stopped after step {step}: more would not change the average ({average.kind})")
            break
    reporter.stop()
    average.close()
    # SWAD chooses its weights at the end, after the last measurement.
    return average, None if average.kind == "swad" else measured


def check_finite(step: int, names: list[str], values: Tensor, batch: Batch, ranks: Ranks) -> None:
    """Stop at the first loss that is not a number.

    Raises:
        UserError: naming step, term and rows; the weights of the step before are still good.
    """
    if bool(values.isfinite().all()):
        return
    bad = [name for name, finite in zip(names, values.isfinite().tolist(), strict=True) if not finite]
    rows = ", ".join(str(row) for part in ranks.gather(batch.rows.tolist()) for row in part)
    raise UserError(
        f"step {step}: {', '.join(bad)} is not finite (rows {rows} of the data set); "
        "try a lower --lr, --clip-grad-norm, or --precision fp32"
    )


class Meter:
    """Means of scalars over the steps since the last reading, and the pace of those steps."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.steps = self.images = 0
        self.since = time.perf_counter()

    def add(self, values: dict[str, Tensor], images: int) -> None:
        """One step's scalars; they stay on their device until read, so that a GPU need not wait."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach().double()
        self.steps += 1
        self.images += images

    def read(self) -> dict[str, float | None]:
        """Means by name and images per second; starts anew. None for what is not finite, which JSON lacks."""
        now = time.perf_counter()
        means = {name: float(value) / self.steps for name, value in self.sums.items()}
        means["images_per_second"] = self.images / (now - self.since)
        line = {name: value if math.isfinite(value) else None for name, value in means.items()}
        self.sums, self.steps, self.images, self.since = {}, 0, 0, now
        return line

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time inside does not count."""
        began = time.perf_counter()
        yield
        self.since += time.perf_counter() - began

    def state_dict(self) -> dict[str, Any]:
        return {"sums": self.sums, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sums, self.steps = state["sums"], state["steps"]


def save(folder: RunFolder, step: int, method: Method, state: dict[str, Any], meter: Meter) -> None:
    """Write the checkpoint of a step: all that the next step depends on."""
    folder.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    parts = {name: part.state_dict() for name, part in state.items()}
    save_state(
        folder.checkpoint, {"step": step, "method": method.state_dict(), **parts, "meter": meter.state_dict()}
    )


def restore(folder: RunFolder, method: Method, state: dict[str, Any], meter: Meter) -> int:
    """Load the checkpoint if there is one; returns the step it was written after."""
    if not folder.checkpoint.is_file():
        return 0
    stored = load_state(folder.checkpoint)
    method.load_state_dict(stored["method"])
    for name, part in state.items():
        part.load_state_dict(stored[name])
    meter.load_state_dict(stored["meter"])
    return int(stored["step"])


def keep_metrics(folder: RunFolder, step: int) -> list[dict[str, Any]]:
    """Drop lines after `step`, and those of `Method.finish`, which are about to be written again."""
    lines = [line for line in folder.read_metrics() if line["step"] <= step and "chosen" not in line]
    write_text(folder.metrics, "".join(json.dumps(line) + "\n" for line in lines))
    return lines
