"""`--select best`: keep the weights of the best source validation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..methods.base import Method

# Metrics that --select best maximises; the first that a validation measures counts.
CRITERIA = ("validation_domain_accuracy", "validation_accuracy", "validation_recall")


class BestWeights:
    """Weights of the validation with the highest accuracy, mean over source domains, or recall of captions.

    Ties go to the earliest validation, as in DomainBed's training-domain validation (Gulrajani and Lopez-Paz, ICLR
    2021). The initial weights are no candidate.

    Args:
        method: after `Method.setup`; its frozen parameters are not copied.

    Attributes:
        step: optimiser steps of the weights; 0 if there was no validation.
        metrics: of their validation.
    """

    def __init__(self, method: Method) -> None:
        self.method, self.step = method, 0
        self.metrics: dict[str, float] = {}
        self.weights: dict[str, Tensor] = {}
        self.frozen = {name for name, p in method.named_parameters() if not p.requires_grad}

    def observe(self, step: int, metrics: Mapping[str, float]) -> None:
        """Keep the current weights if their validation is the best so far."""
        score = criterion(metrics)
        if score is None or (self.step and not score > (criterion(self.metrics) or 0.0)):
            return
        self.step, self.metrics = step, dict(metrics)
        state = self.method.state_dict()
        self.weights = {name: t.detach().clone() for name, t in state.items() if name not in self.frozen}

    @torch.no_grad()
    def restore(self) -> None:
        """Copy the kept weights into the method."""
        state = self.method.state_dict()
        for name, tensor in self.weights.items():
            state[name].copy_(tensor)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that resuming requires."""
        return {"step": self.step, "metrics": self.metrics, "weights": self.weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the result of `state_dict`."""
        self.step = int(state["step"])
        self.metrics, self.weights = dict(state["metrics"]), dict(state["weights"])


def criterion(metrics: Mapping[str, float]) -> float | None:
    """Return the value that --select best maximises; None if it was not measured."""
    return next((metrics[name] for name in CRITERIA if name in metrics), None)
