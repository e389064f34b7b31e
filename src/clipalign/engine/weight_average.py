"""A float32 average of weights over training steps: what all kinds of averages share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.errors import UserError


class WeightAverage:
    """A float32 average of parameters over steps 0 (before training), 1, 2, ...

    Buffers are not averaged: methods train in evaluation mode, where batch-norm statistics do not change.
    This class keeps no average at all ("none"); subclasses say in `share` how much the newest weights count.

    Attributes:
        kind: value of --average.
        evaluations: validations of a run where --validate-every does not say otherwise.
        average: the averaged tensors; empty while there is no average to use.
        over: True when further steps would change nothing.
    """

    kind: ClassVar[str] = "none"
    evaluations: ClassVar[int] = 5
    over: bool = False

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        """Start from the weights as they are now (step 0).

        Args:
            parameters: tensors that training changes in place, in a fixed order.
        """
        self.parameters = list(parameters)
        self.step = 0
        self.average = [] if self.kind == "none" else [p.detach().float().clone() for p in self.parameters]
        self.half: frozenset[int] = frozenset()

    def accumulate_in_half(self, parameters: Iterable[Tensor]) -> None:
        """Keep the average of these parameters in float16, rounded as CLIPood's and AlignCLIP's loop does."""
        chosen = {id(parameter) for parameter in parameters}
        self.half = frozenset(i for i, p in enumerate(self.parameters) if id(p) in chosen)

    def share(self, step: int) -> float:
        """Weight of the parameters at `step` in the average after it; the average before it gets the rest."""
        raise NotImplementedError

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimiser step number `step` (from 1).

        May be called every k steps only: the newest weights then count for all steps since the last call.

        Raises:
            ValueError: steps that do not grow.
        """
        if step <= self.step:
            raise ValueError(f"step {step} after step {self.step}")
        if self.average:
            newest = [p.detach() if p.dtype == torch.float32 else p.detach().float() for p in self.parameters]
            share = self.share(step)
            full = [i for i in range(len(newest)) if i not in self.half]
            if full:
                torch._foreach_lerp_([self.average[i] for i in full], [newest[i] for i in full], share)
            for i in self.half:
                self.average[i].copy_(_half_step(self.average[i].half(), newest[i].half(), share))
        self.step = step

    def observe(self, loss: float) -> None:
        """Take in the validation loss, measured after `update`."""

    def close(self) -> None:
        """Called once, after the last step."""

    @torch.no_grad()
    def copy_to(self, parameters: Iterable[Tensor]) -> None:
        """Write the average into tensors of the same shapes, in their own precision."""
        for parameter, value in zip(parameters, self.average, strict=True):
            parameter.copy_(value)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The parameters hold the average inside the `with`, and what they held before after it."""
        if not self.average:
            yield
            return
        held = [p.detach().clone() for p in self.parameters]
        self.copy_to(self.parameters)
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(self.parameters, held, strict=True):
                    parameter.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Everything that going on bit for bit needs: the last step and the averaged tensors."""
        return {"step": self.step, "average": list(self.average)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state_dict`; tensors keep the device of this average.

        Raises:
            UserError: another number of tensors, or other shapes.
        """
        stored = state["average"]
        if [tuple(t.shape) for t in stored] != [tuple(t.shape) for t in self.average]:
            raise UserError(
                "the checkpoint's weight average is of other tensors: was --average or --method changed?"
            )
        for mine, theirs in zip(self.average, stored, strict=True):
            mine.copy_(theirs)
        self.step = int(state["step"])


def _half_step(mean: Tensor, newest: Tensor, share: float) -> Tensor:
    """(mean + r newest) / (1 + r) with r = share / (1 - share), rounded to float16 after each operation."""
    if share == 1:
        return newest
    ratio = share / (1 - share)
    return (mean + ratio * newest) / (1 + ratio)
