"""The optimiser of a run and its schedule, over a method's parameter groups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from ..core.config import TrainConfig


def build_optimizer(groups: Sequence[dict[str, Any]], config: TrainConfig) -> torch.optim.Optimizer:
    """The optimiser of a run over a method's parameter groups; see `Method.param_groups`."""
    resolved = []
    for group in groups:
        lr, decay = group.get("lr"), group.get("weight_decay")
        resolved.append(
            {
                "params": group["params"],
                "lr": config.lr * group.get("lr_factor", 1.0) if lr is None else lr,
                "weight_decay": config.weight_decay if decay is None else decay,
                **{name: group[name] for name in ("eps",) if name in group},
            }
        )
    if config.optimizer == "sgd":
        return torch.optim.SGD(resolved, lr=config.lr, momentum=config.momentum)
    if config.optimizer == "adam":
        return torch.optim.Adam(resolved, lr=config.lr)
    return torch.optim.AdamW(resolved, lr=config.lr)


def build_scheduler(
    optimizer: torch.optim.Optimizer, groups: Sequence[dict[str, Any]], config: TrainConfig
) -> LambdaLR:
    """The schedule of each group; those with "warmup": False start at their peak."""
    held = config.warmup_lr / config.lr if config.warmup_lr is not None and config.lr else None
    warmup = int(
        config.warmup_steps if config.warmup_steps >= 1 else round(config.warmup_steps * config.steps)
    )

    def schedule(group: dict[str, Any]) -> Any:
        steps = warmup if group.get("warmup", True) else 0
        return lambda step: lr_factor(step, config.steps, steps, config.schedule, held)

    return LambdaLR(optimizer, [schedule(group) for group in groups])


def lr_factor(step: int, total: int, warmup: int, schedule: str, held: float | None = None) -> float:
    """Share of the peak learning rate at a step (from 0): linear up, or `held`, for the first `warmup` steps,
    then half a cosine to 0 at `total`."""
    if step < warmup:
        return (step + 1) / warmup if held is None else held
    if schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
