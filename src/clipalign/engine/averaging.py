"""Averages of weights over training steps, and between two models: float32, fused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..core.errors import UserError

KINDS = ("none", "ema", "bma", "gaussian", "swad")


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


class EMA(WeightAverage):
    """Exponential moving average: after each step, decay * average + (1 - decay) * weights."""

    kind = "ema"

    def __init__(self, parameters: Iterable[Tensor], decay: float = 0.999) -> None:
        """As `WeightAverage`.

        Args:
            parameters: tensors that training changes in place.
            decay: kept per step, in [0, 1).
        """
        if not 0 <= decay < 1:
            raise UserError(f"--ema-decay {decay}: must be at least 0 and below 1")
        super().__init__(parameters)
        self.decay = decay

    def share(self, step: int) -> float:
        return 1 - self.decay ** (step - self.step)


class BetaMovingAverage(WeightAverage):
    """Beta moving average of CLIPood (Shu et al., ICML 2023): sum of w(t) theta_t / sum of w(t), t = 0 ... T.

    w(t) is the density of Beta(beta, beta) at (t + 0.5) / (T + 1), so that for beta < 1 the pre-trained and
    the last weights count most: of the pre-trained ones 0.64 % stay at beta 0.5 and T = 5000, 6.2 % at 0.1.
    """

    kind = "bma"

    def __init__(self, parameters: Iterable[Tensor], total_steps: int, beta: float = 0.5) -> None:
        """As `WeightAverage`.

        Args:
            parameters: tensors that training changes in place.
            total_steps: T, steps of the whole run.
            beta: both parameters of the density; 1 is the plain mean.
        """
        if beta <= 0:
            raise UserError(f"--bma-beta {beta}: must be above 0")
        super().__init__(parameters)
        x = (np.arange(total_steps + 1) + 0.5) / (total_steps + 1)
        self.cumulative = np.cumsum((x * (1 - x)) ** (beta - 1))  # the density's constant cancels

    def share(self, step: int) -> float:
        if step >= len(self.cumulative):
            raise ValueError(f"step {step} of a beta moving average over {len(self.cumulative) - 1}")
        return float(1 - self.cumulative[self.step] / self.cumulative[step])


class GaussianAverage(WeightAverage):
    """Gaussian prompt averaging of PromptSRC (Khattak et al., ICCV 2023): sum of w(e) theta_e / sum of w(e).

    theta_e is the state at the end of part e of E equal parts of the run (published: epochs), w(e) the
    normal density at e. Mean and standard deviation are shares of the run, so that they carry over to any
    number of steps. Published: E = 20, mean 15 and standard deviation 1 epochs, that is 0.75 and 0.05. Before
    the end of the first part the average is the start.
    """

    kind = "gaussian"

    def __init__(
        self,
        parameters: Iterable[Tensor],
        total_steps: int,
        mean: float = 0.75,
        std: float = 0.05,
        parts: int = 20,
    ) -> None:
        """As `WeightAverage`.

        Args:
            parameters: tensors that training changes in place.
            total_steps: steps of the whole run.
            mean, std: of the density, as shares of the run.
            parts: E; of a run with fewer steps, every step is a part.
        """
        if not std > 0:
            raise UserError(f"--gaussian-std {std}: must be above 0")
        if parts < 1:
            raise UserError(f"--gaussian-parts {parts}: must be at least 1")
        super().__init__(parameters)
        parts = min(parts, total_steps)
        ends = np.arange(1, parts + 1)
        exponents = -0.5 * ((ends / parts - mean) / std) ** 2
        weights = np.zeros(total_steps + 1)
        # Relative to the largest one, so that a narrow density far away does not vanish altogether.
        weights[np.rint(ends * total_steps / parts).astype(int)] = np.exp(exponents - exponents.max())
        self.cumulative = np.cumsum(weights)

    def share(self, step: int) -> float:
        if step >= len(self.cumulative):
            raise ValueError(f"step {step} of a Gaussian average over {len(self.cumulative) - 1}")
        now = self.cumulative[step]
        return float(1 - self.cumulative[self.step] / now) if now else 0.0


def make_average(
    kind: str,
    parameters: Iterable[Tensor],
    total_steps: int,
    *,
    ema_decay: float = 0.999,
    bma_beta: float = 0.5,
    gaussian_mean: float = 0.75,
    gaussian_std: float = 0.05,
    gaussian_parts: int = 20,
    swad_converge: int = 3,
    swad_tolerance: int = 6,
    swad_ratio: float = 0.3,
) -> WeightAverage:
    """The average of that name, one of `KINDS`.

    Raises:
        UserError: an unknown name, or settings out of range.
    """
    if kind == "none":
        return WeightAverage(parameters)
    if kind == "ema":
        return EMA(parameters, ema_decay)
    if kind == "bma":
        return BetaMovingAverage(parameters, total_steps, bma_beta)
    if kind == "gaussian":
        return GaussianAverage(parameters, total_steps, gaussian_mean, gaussian_std, gaussian_parts)
    if kind == "swad":
        from .swad import ValleyAverage  # builds on this module

        return ValleyAverage(parameters, swad_converge, swad_tolerance, swad_ratio)
    raise UserError(f'--average "{kind}": choose one of {", ".join(KINDS)}')
