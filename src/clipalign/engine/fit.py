"""The training loop, shared by all methods."""

from __future__ import annotations

import math
import signal

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from ..core.config import TrainConfig
from ..core.distributed import Ranks
from ..core.errors import UserError
from ..core.interrupts import Interrupted, received
from ..core.precision import Precision, round_to_half
from ..core.types import Batch
from ..data.batches import TrainBatches
from ..methods.base import Method
from ..methods.capabilities import SupportsRunningAverage
from ..methods.shared.contrastive import ContrastiveMethod
from ..runs.folder import MetricLine
from .accumulation import contrastive_backward, micro_batches
from .averaging import average_kind, make_average
from .checkpoint import Checkpoint
from .log import RunLog
from .meter import Meter
from .optimiser import build_optimizer, build_scheduler
from .selection import BestWeights
from .validation import RunValidation
from .weight_average import WeightAverage


def fit(
    method: Method,
    config: TrainConfig,
    batches: TrainBatches,
    validation: RunValidation,
    precision: Precision,
    log: RunLog,
    best: BestWeights | None = None,
) -> tuple[WeightAverage, dict[str, float] | None]:
    """Train a method after `Method.setup`.

    With `config.run.resume` and a checkpoint in the run folder, training resumes from there; on a CPU the weights
    equal those of an uninterrupted run bit for bit.

    Args:
        method: trained in place; holds the weights of the last step afterwards.
        config: options of the run.
        batches: batch of each step.
        validation: evaluated every `config.evaluation.validate_every` steps with the averaged weights.
        precision: autocast and loss scaling.
        log: metrics.jsonl, trackers and progress; its folder holds the checkpoint.
        best: sees the weights of each validation; belongs to the checkpoint.

    Returns:
        The weight average, and the metrics of the validation after the last step. The metrics are None if this call
        took no step, or if the average was chosen after that validation (SWAD).

    Raises:
        UserError: a loss is not finite.
        Interrupted: a signal arrived (see `core.interrupts`); the state after the current step is in the checkpoint.
    """
    ranks, total_steps = batches.ranks, config.schedule.steps
    checkpoint_path = log.folder.checkpoint
    if not (config.run.resume and checkpoint_path.is_file()):
        method.start(validation)
    parameters = method.parameters()
    half_parameters = precision.half_parameters(method.backbone.model)  # none unless "released-fp16"
    round_to_half(half_parameters)
    groups = method.param_groups()
    optimizer = build_optimizer(groups, config.optimiser)
    scheduler = build_scheduler(optimizer, groups, config.schedule, config.optimiser.lr)
    average = make_average(average_kind(config.average, method), parameters, total_steps, config.average)
    average.accumulate_in_half(half_parameters)
    if isinstance(method, SupportsRunningAverage):
        method.use_average(average)
    meter = Meter()
    checkpoint = Checkpoint(
        checkpoint_path,
        method,
        optimizer=optimizer,
        scheduler=scheduler,
        scaler=precision.scaler,
        average=average,
        meter=meter,
        **({} if best is None else {"best": best}),
    )
    first = checkpoint.restore() if config.run.resume else 0
    validate_every = config.evaluation.validate_every
    if validate_every is None:
        validate_every = max(1, total_steps // average.validations)
    metrics: dict[str, float] | None = None
    if first:
        log.info(f"resuming after step {first} of {total_steps}")
    log.start(first, total_steps)

    for step, batch in enumerate(batches.iterate(first, total_steps, config.run.workers), first + 1):
        if average.finished:  # the checkpoint was written after the average had stopped the run
            break
        seed_step(config.run.seed, step, ranks.rank)
        batch = batch.to(ranks.device)
        optimizer.zero_grad(set_to_none=True)
        if isinstance(method, ContrastiveMethod):
            # Its loss compares all rows of the batch, so it cannot be summed over micro-batches.
            terms = contrastive_backward(method, batch, config.optimiser, precision, ranks)
        else:
            terms = {}
            for micro_batch in micro_batches(batch, config.optimiser.micro_batch_size):
                with precision.autocast():
                    losses = method.loss(micro_batch)
                total_loss = torch.stack([v.float() for k, v in losses.items() if k.startswith("loss")]).sum()
                # The loss is a mean over the micro-batch; the weight makes the sum a mean over the whole batch.
                weight = len(micro_batch) / config.optimiser.batch_size
                precision.scaler.scale(weight * total_loss).backward()
                for name, value in losses.items():
                    terms[name] = terms.get(name, 0) + weight * value.detach().float()
        means = ranks.sum(torch.stack(list(terms.values())))  # [number of terms]
        check_finite(step, list(terms), means, batch, ranks)
        ranks.sum_gradients(parameters)
        precision.scaler.unscale_(optimizer)
        round_to_half(p.grad for p in half_parameters if p.grad is not None)
        grad_norm = clip_grad_norm_(parameters, config.optimiser.clip_grad_norm or math.inf)
        lr = optimizer.param_groups[0]["lr"]
        precision.scaler.step(optimizer)
        round_to_half(half_parameters)
        precision.scaler.update()
        scheduler.step()
        average.update(step)
        method.after_step(step)

        meter.add(
            dict(zip(terms, means, strict=True)) | {"grad_norm": grad_norm}, config.optimiser.batch_size
        )
        line: MetricLine | None = None
        metrics = None
        if step % config.run.log_every == 0 or step == total_steps:
            line = {"step": step, **meter.read(), "lr": lr}
        if step == total_steps or (validate_every and step % validate_every == 0):
            with average.applied(), meter.paused():
                metrics = validation.evaluate(method)
                if best is not None:
                    best.observe(step, metrics)
            line = (line or {"step": step}) | metrics
            average.observe(metrics["validation_loss"])
        log.step(step, total_steps, line)
        last = step == total_steps or average.finished
        every = config.run.checkpoint_every
        stop = agreed_signal(ranks)
        if (stop or (every and (step % every == 0 or last))) and ranks.is_main:
            checkpoint.save(step)
        if stop:
            ranks.barrier()  # launchers end all processes with the first
            raise Interrupted(stop, f"stopped after step {step} of {total_steps}")
        if average.finished:
            log.info(
                f"stopped after step {step}: further steps would not change the average ({average.kind})"
            )
            break
    log.stop()
    average.close()
    # SWAD selects its weights in `close`, after the last validation.
    return average, None if average.kind == "swad" else metrics


def agreed_signal(ranks: Ranks) -> int:
    """Return the signal that ends the run after this step, or 0; all processes stop after the same step."""
    number = received() or 0
    if ranks.world == 1:
        return number
    anywhere = int(ranks.sum(torch.tensor(number, device=ranks.device)))
    return number or (signal.SIGTERM if anywhere else 0)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch for the loss of one step; as a function of (seed, step, rank) it needs no state in checkpoints."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank, 1]).generate_state(1)[0]))


def check_finite(step: int, names: list[str], values: Tensor, batch: Batch, ranks: Ranks) -> None:
    """Raise UserError with step, terms and rows if a term is not finite; the weights are still those of the last
    step."""
    if bool(values.isfinite().all()):
        return
    bad = [name for name, finite in zip(names, values.isfinite().tolist(), strict=True) if not finite]
    rows = ", ".join(str(row) for part in ranks.gather(batch.rows.tolist()) for row in part)
    raise UserError(
        f"step {step}: {', '.join(bad)} is not finite (rows {rows} of the data set); "
        "try a lower --lr, --clip-grad-norm, or --precision fp32"
    )
