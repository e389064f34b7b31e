"""The optimiser of a run and its schedule, over a method's parameter groups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from ..core.config import OptimiserOptions, ScheduleOptions


def build_optimizer(groups: Sequence[dict[str, Any]], options: OptimiserOptions) -> torch.optim.Optimizer:
    """The optimiser of a run over a method's parameter groups; see `Method.param_groups`."""
    resolved = []
    for group in groups:
        lr, decay = group.get("lr"), group.get("weight_decay")
        resolved.append(
            {
                "params": group["params"],
                "lr": options.lr * group.get("lr_factor", 1.0) if lr is None else lr,
                "weight_decay": options.weight_decay if decay is None else decay,
                **{name: group[name] for name in ("eps",) if name in group},
            }
        )
    if options.optimizer == "sgd":
        return torch.optim.SGD(resolved, lr=options.lr, momentum=options.momentum)
    if options.optimizer == "adam":
        return torch.optim.Adam(resolved, lr=options.lr)
    return torch.optim.AdamW(resolved, lr=options.lr)


def build_scheduler(
    optimizer: torch.optim.Optimizer,
    groups: Sequence[dict[str, Any]],
    options: ScheduleOptions,
    peak: float,
) -> LambdaLR:
    """The schedule of each group; those with "warmup": False start at their peak. `peak` is --lr."""
    held = options.warmup_lr / peak if options.warmup_lr is not None and peak else None
    warmup = options.warmup_steps
    warmup = int(warmup if warmup >= 1 else round(warmup * options.steps))

    def schedule(group: dict[str, Any]) -> Any:
        steps = warmup if group.get("warmup", True) else 0
        return lambda step: lr_factor(step, options.steps, steps, options.schedule, held)

    return LambdaLR(optimizer, [schedule(group) for group in groups])


def lr_factor(step: int, total: int, warmup: int, schedule: str, held: float | None = None) -> float:
    """Share of the peak learning rate at a step (from 0): linear up, or `held`, for the first `warmup` steps,
    then half a cosine to 0 at `total`."""
    if step < warmup:
        return (step + 1) / warmup if held is None else held
    if schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
