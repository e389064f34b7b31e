"""Base class of weight averages: a float32 running average over optimiser steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.errors import UserError


class WeightAverage:
    """A float32 average of parameters over steps 0 (initial weights), 1, 2, ...

    Buffers are not averaged: methods train in evaluation mode, in which batch-norm statistics are constant. This
    class keeps no average ("none"); subclasses define the weight of the newest parameters in `share`.

    Attributes:
        kind: value of --average.
        validations: number of validations in a run if --validate-every is not given.
        average: the averaged tensors; empty if there is no average yet.
        finished: whether further steps would leave the average unchanged.
    """

    kind: ClassVar[str] = "none"
    validations: ClassVar[int] = 5
    finished: bool = False

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        """Start from the current weights (step 0).

        Args:
            parameters: tensors that training updates in place, in a fixed order.
        """
        self.parameters = list(parameters)
        self.step = 0
        self.average = [] if self.kind == "none" else [p.detach().float().clone() for p in self.parameters]
        self.half: frozenset[int] = frozenset()

    def accumulate_in_half(self, parameters: Iterable[Tensor]) -> None:
        """Round the average of these parameters to float16, as the code of CLIPood and AlignCLIP does."""
        chosen = {id(parameter) for parameter in parameters}
        self.half = frozenset(i for i, p in enumerate(self.parameters) if id(p) in chosen)

    def share(self, step: int) -> float:
        """Return the weight of the parameters at `step`; the previous average has weight 1 - share."""
        raise NotImplementedError

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the weights after optimiser step `step`, counted from 1.

        Steps may be skipped; the newest weights then stand in for all steps since the last call.

        Raises:
            ValueError: `step` is not larger than that of the last call.
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
                self.average[i].copy_(_half_update(self.average[i].half(), newest[i].half(), share))
        self.step = step

    def observe(self, loss: float) -> None:
        """Record the validation loss measured after `update`."""

    def close(self) -> None:
        """Finalise the average after the last step."""

    @torch.no_grad()
    def copy_to(self, parameters: Iterable[Tensor]) -> None:
        """Copy the average into tensors of the same shapes, cast to their dtypes."""
        for parameter, value in zip(parameters, self.average, strict=True):
            parameter.copy_(value)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Return a context in which the parameters hold the average."""
        if not self.average:
            yield
            return
        backup = [p.detach().clone() for p in self.parameters]
        self.copy_to(self.parameters)
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(self.parameters, backup, strict=True):
                    parameter.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that resuming bit for bit requires."""
        return {"step": self.step, "average": list(self.average)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the result of `state_dict`, on this average's device.

        Raises:
            UserError: the number of tensors or their shapes differ.
        """
        stored = state["average"]
        if [tuple(t.shape) for t in stored] != [tuple(t.shape) for t in self.average]:
            raise different_tensors()
        for tensor, value in zip(self.average, stored, strict=True):
            tensor.copy_(value)
        self.step = int(state["step"])


def different_tensors() -> UserError:
    """Return the error for a checkpoint whose average has other tensors."""
    return UserError(
        "the checkpoint's weight average has different tensors: was --average or --method changed?"
    )


def _half_update(mean: Tensor, newest: Tensor, share: float) -> Tensor:
    """Return (mean + r newest) / (1 + r) with r = share / (1 - share), rounded to float16 after each operation."""
    if share == 1:
        return newest
    ratio = share / (1 - share)
    return (mean + ratio * newest) / (1 + ratio)
