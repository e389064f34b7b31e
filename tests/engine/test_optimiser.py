"""Optimiser and schedule."""

from __future__ import annotations

import pytest
import torch

from clipalign.core.config import OptimiserOptions
from clipalign.engine.optimiser import build_optimizer, lr_factor


def test_schedule_matches_torch_and_warms_up_linearly() -> None:
    assert lr_factor(0, 100, 0, "cosine") == 1 and lr_factor(100, 100, 0, "cosine") == pytest.approx(0)
    assert lr_factor(50, 100, 0, "cosine") == pytest.approx(0.5)
    assert [lr_factor(i, 100, 4, "cosine") for i in range(4)] == [0.25, 0.5, 0.75, 1]
    assert lr_factor(4, 100, 4, "cosine") == 1 and lr_factor(99, 100, 4, "constant") == 1
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(
        torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0), T_max=100
    )
    reference.optimizer.step()
    for step in range(100):
        assert lr_factor(step, 100, 0, "cosine") == pytest.approx(reference.get_last_lr()[0])
        reference.step()


def test_groups_override_learning_rate_and_weight_decay() -> None:
    a, b = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))
    groups = [{"params": [a], "lr_factor": 10.0, "weight_decay": 0.0}, {"params": [b]}]
    for name in ("adamw", "adam", "sgd"):
        config = OptimiserOptions(lr=0.1, weight_decay=0.5, optimizer=name)  # type: ignore[arg-type]
        optimizer = build_optimizer(groups, config)
        assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [(1.0, 0.0), (0.1, 0.5)]
