"""One loop for every method: batches in, losses down, weights out. Read `fit` from top to bottom."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import LambdaLR

from .averaging import WeightAverage, make_average
from .checkpoint import load_state, save_state, write_text
from .config import TrainConfig
from .data.base import Batch
from .data.batches import Steps
from .distributed import Ranks
from .errors import UserError
from .evaluation import Views
from .methods.base import Classifier, Method
from .precision import Precision, round_to_half
from .progress import Reporter
from .protocols.base import Episode
from .runs import RunFolder
from .writers import Writers


@dataclass(frozen=True)
class SourceValidation:
    """The source rows of an episode, as `methods.base.Validation` describes.

    Attributes:
        episode: its training and validation rows.
        views: shows them.
        seed: of augmented training views.
    """

    episode: Episode
    views: Views
    seed: int = 0

    def batches(self) -> Iterator[Batch]:
        """All validation views, the same on every process."""
        return self.views.batches(self.episode.validation_rows, "validation", self.episode.train_classes)

    def training(self, augmented: int = 0) -> Iterator[Batch]:
        """All training rows; see `methods.base.Validation`."""
        episode = self.episode
        if not augmented:
            # Fixed views are those of evaluation: for photographs the transform without augmentation.
            yield from self.views.batches(episode.train_rows, "validation", episode.train_classes)
            return
        rows = len(episode.train_rows)
        steps = Steps(episode, self.views.batch_size, self.seed, self.views.preprocess)
        for start in range(0, augmented * rows, self.views.batch_size):
            draws = np.arange(start, min(start + self.views.batch_size, augmented * rows))
            yield steps.batch(episode.train_rows[draws % rows], draws).to(self.views.ranks.device)

    def measure(self, classifier: Classifier) -> dict[str, float]:
        """Accuracy and mean cross-entropy over the training classes."""
        episode = self.episode
        outputs = self.views.outputs(classifier, episode.validation_rows, "validation", episode.train_classes)
        loss = F.cross_entropy(torch.from_numpy(outputs.logits), torch.from_numpy(outputs.labels))
        right = outputs.logits.argmax(axis=1) == outputs.labels
        return {"validation_accuracy": float(right.mean()), "validation_loss": float(loss)}

    def accuracy(self, classifier: Classifier) -> float:
        """See `methods.base.Validation`."""
        return self.measure(classifier)["validation_accuracy"]


def fit(
    method: Method,
    config: TrainConfig,
    average_kind: str,
    folder: RunFolder,
    steps: Steps,
    validation: SourceValidation,
    precision: Precision,
    reporter: Reporter,
    writers: Writers | None = None,
) -> WeightAverage:
    """Train a method that has been set up.

    With `config.resume` and a checkpoint in the folder, goes on from there: every later weight is the same,
    bit for bit, as without the break (on a CPU).

    Args:
        method: its trained tensors are changed in place, to those of the last step.
        config: options of the run.
        average_kind: one of `averaging.KINDS`.
        folder: gets metrics.jsonl and checkpoints.
        steps: batches by step.
        validation: measured every `config.validate_every` steps, with the averaged weights.
        precision: autocast and loss scaling.
        reporter: says how it goes.
        writers: get every line of metrics.jsonl too.

    Returns:
        The average; `applied()` puts it into the method for a while.

    Raises:
        UserError: a loss that is not finite.
    """
    ranks, total = steps.ranks, config.steps
    if not (config.resume and folder.checkpoint.is_file()):
        method.start(validation)
    parameters, rounded = method.parameters(), precision.rounded(method.backbone.model)
    round_to_half(rounded)
    optimizer = build_optimizer(method.param_groups(), config)
    held = config.warmup_lr / config.lr if config.warmup_lr is not None and config.lr else None
    warmup = config.warmup_steps if config.warmup_steps >= 1 else round(config.warmup_steps * total)
    scheduler = LambdaLR(optimizer, lambda step: lr_factor(step, total, int(warmup), config.schedule, held))
    average = make_average(
        average_kind,
        parameters,
        total,
        ema_decay=config.ema_decay,
        bma_beta=config.bma_beta,
        gaussian_mean=config.gaussian_mean,
        gaussian_std=config.gaussian_std,
        gaussian_parts=config.gaussian_parts,
        swad_converge=config.swad_converge,
        swad_tolerance=config.swad_tolerance,
        swad_ratio=config.swad_ratio,
    )
    average.accumulate_in_half(rounded)
    meter = Meter()
    state = {"optimizer": optimizer, "scheduler": scheduler, "scaler": precision.scaler, "average": average}
    first = restore(folder, method, state, meter) if config.resume else 0
    metrics = keep_metrics(folder, first) if ranks.first else []
    writers = writers or Writers()
    writers.replay(metrics)
    validate_every = config.validate_every
    if validate_every is None:
        validate_every = max(1, total // average.evaluations)
    reporter.start(total, first)

    for step, batch in enumerate(steps.iterate(first, total, config.workers), first + 1):
        if average.over:  # resumed behind its end
            break
        # Randomness in a loss depends on (seed, step, process) alone: nothing to store, nothing to restore.
        torch.manual_seed(
            int(np.random.SeedSequence([config.seed, step, ranks.rank, 1]).generate_state(1)[0])
        )
        optimizer.zero_grad(set_to_none=True)
        terms: dict[str, Tensor] = {}
        for piece in pieces(batch.to(ranks.device), config.micro_batch_size):
            share = len(piece) / config.batch_size
            with precision.autocast():
                values = method.loss(piece)
            loss = torch.stack([v.float() for name, v in values.items() if name.startswith("loss")]).sum()
            for name, value in values.items():
                terms[name] = terms.get(name, 0) + share * value.detach().float()
            precision.scaler.scale(share * loss).backward()
        total_terms = ranks.sum(torch.stack(list(terms.values())))
        check_finite(step, list(terms), total_terms, batch, ranks)
        ranks.sum_gradients(parameters)
        precision.scaler.unscale_(optimizer)
        round_to_half(p.grad for p in rounded if p.grad is not None)
        norm = clip_grad_norm_(parameters, config.clip_grad_norm or math.inf)
        lr = optimizer.param_groups[0]["lr"]
        precision.scaler.step(optimizer)
        round_to_half(rounded)
        precision.scaler.update()
        scheduler.step()
        average.update(step)
        method.after_step(step)

        meter.add(dict(zip(terms, total_terms, strict=True)) | {"grad_norm": norm}, config.batch_size)
        line: dict[str, Any] | None = None
        if step % config.log_every == 0 or step == total:
            line = {"step": step, **meter.read(), "lr": lr}
        if step == total or (validate_every and step % validate_every == 0):
            with average.applied(), meter.paused():
                measured = validation.measure(method.classifier(method.episode.class_names))
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
        if config.checkpoint_every and (step % config.checkpoint_every == 0 or last) and ranks.first:
            save(folder, step, method, state, meter)
        if average.over:
            reporter.say(f"stopped after step {step}: more would not change the average ({average.kind})")
            break
    reporter.stop()
    average.close()
    return average


def build_optimizer(groups: list[dict[str, Any]], config: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser of a run over a method's parameter groups."""
    resolved = []
    for group in groups:
        decay = group.get("weight_decay")
        resolved.append(
            {
                "params": group["params"],
                "lr": config.lr * group.get("lr_factor", 1.0),
                "weight_decay": config.weight_decay if decay is None else decay,
                **{name: group[name] for name in ("eps",) if name in group},
            }
        )
    if config.optimizer == "sgd":
        return torch.optim.SGD(resolved, lr=config.lr, momentum=config.momentum)
    if config.optimizer == "adam":
        return torch.optim.Adam(resolved, lr=config.lr)
    return torch.optim.AdamW(resolved, lr=config.lr)


def lr_factor(step: int, total: int, warmup: int, schedule: str, held: float | None = None) -> float:
    """Share of the peak learning rate at a step (from 0): linear up, or `held`, for the first `warmup` steps,
    then half a cosine to 0 at `total`."""
    if step < warmup:
        return (step + 1) / warmup if held is None else held
    if schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def pieces(batch: Batch, size: int | None) -> Iterator[Batch]:
    """A batch in micro-batches of at most `size` rows."""
    if size is None or size >= len(batch):
        yield batch
        return
    for start in range(0, len(batch), size):
        part = slice(start, start + size)
        captions = None if batch.captions is None else batch.captions[part]
        yield replace(
            batch,
            images=batch.images[part],
            labels=batch.labels[part],
            domains=batch.domains[part],
            rows=batch.rows[part],
            captions=captions,
        )


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
