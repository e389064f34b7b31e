"""Optimiser and learning-rate schedule over the parameter groups of a method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from ..core.config import OptimiserOptions, ScheduleOptions


def build_optimizer(groups: Sequence[dict[str, Any]], options: OptimiserOptions) -> torch.optim.Optimizer:
    """Create the optimiser for the parameter groups of a method; see `Method.param_groups`."""
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
    optimizer: torch.optim.Optimizer, groups: Sequence[dict[str, Any]], options: ScheduleOptions, lr: float
) -> LambdaLR:
    """Create the schedule of each group; groups with "warmup": False have no warm-up.

    Args:
        optimizer: made by `build_optimizer` from `groups`.
        groups: parameter groups of the method.
        options: length and shape of the schedule.
        lr: peak learning rate that `options.warmup_lr` is relative to.
    """
    constant = options.warmup_lr / lr if options.warmup_lr is not None and lr else None
    warmup = options.warmup_steps
    warmup = int(warmup if warmup >= 1 else round(warmup * options.steps))

    def schedule(group: dict[str, Any]) -> Any:
        steps = warmup if group.get("warmup", True) else 0
        return lambda step: lr_factor(step, options.steps, steps, options.schedule, constant)

    return LambdaLR(optimizer, [schedule(group) for group in groups])


def lr_factor(step: int, total: int, warmup: int, schedule: str, constant: float | None = None) -> float:
    """Return the learning rate at a step as a share of the peak.

    Args:
        step: from 0.
        total: steps of the run; the cosine reaches 0 there.
        warmup: steps of the warm-up.
        schedule: "cosine" (half a cosine after the warm-up) or "constant".
        constant: factor during the warm-up; None for a linear increase.

    Example:
        >>> [lr_factor(step, 4, 2, "cosine") for step in range(4)]
        [0.5, 1.0, 1.0, 0.5]
    """
    if step < warmup:
        return (step + 1) / warmup if constant is None else constant
    if schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
