"""Averages of weights over training steps, and between two models: float32, fused."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from torch import Tensor

from ..core.errors import UserError
from .swad import ValleyAverage
from .weight_average import WeightAverage

KINDS = ("none", "ema", "bma", "gaussian", "swad")


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
        return ValleyAverage(parameters, swad_converge, swad_tolerance, swad_ratio)
    raise UserError(f'--average "{kind}": choose one of {", ".join(KINDS)}')
