"""Weight averages by name: exponential, beta and Gaussian moving averages, and SWAD."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from torch import Tensor

from ..core.config import AverageOptions
from ..core.errors import UserError
from ..methods.base import Method
from .swad import ValleyAverage
from .weight_average import WeightAverage

KINDS = ("none", "ema", "bma", "gaussian", "swad")


class EMA(WeightAverage):
    """Exponential moving average: decay * average + (1 - decay) * weights after each step.

    Args:
        parameters: tensors that training updates in place.
        decay: in [0, 1).
    """

    kind = "ema"

    def __init__(self, parameters: Iterable[Tensor], decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise UserError(f"--ema-decay {decay}: must be at least 0 and below 1")
        super().__init__(parameters)
        self.decay = decay

    def share(self, step: int) -> float:
        return 1 - self.decay ** (step - self.step)


class BetaMovingAverage(WeightAverage):
    """Beta moving average: sum of w(t) theta_t / sum of w(t) over t = 0 ... T.

    w(t) is the density of Beta(beta, beta) at (t + 0.5) / (T + 1). For beta < 1 the initial and the last weights
    count most: at T = 5000 the initial weights have a share of 0.64 % for beta 0.5, and of 6.2 % for beta 0.1.

    Source: Shu et al., CLIPood, ICML 2023.

    Args:
        parameters: tensors that training updates in place.
        total_steps: T, steps of the whole run.
        beta: both parameters of the density; 1 gives the plain mean.
    """

    kind = "bma"

    def __init__(self, parameters: Iterable[Tensor], total_steps: int, beta: float = 0.5) -> None:
        if beta <= 0:
            raise UserError(f"--bma-beta {beta}: must be above 0")
        super().__init__(parameters)
        x = (np.arange(total_steps + 1) + 0.5) / (total_steps + 1)
        # Cumulative weights; the normalising constant of the density cancels.
        self.cumulative = np.cumsum((x * (1 - x)) ** (beta - 1))

    def share(self, step: int) -> float:
        if step >= len(self.cumulative):
            raise ValueError(f"step {step} of a beta moving average over {len(self.cumulative) - 1}")
        return float(1 - self.cumulative[self.step] / self.cumulative[step])


class GaussianAverage(WeightAverage):
    """Gaussian average: sum of w(e) theta_e / sum of w(e) over parts e = 1 ... E of the run.

    theta_e are the weights at the end of part e (an epoch in the paper), and w(e) is a normal density. Mean and
    standard deviation are shares of the run, so they apply to any number of steps. Published: E = 20, mean 15 and
    standard deviation 1 epochs, which is 0.75 and 0.05. Before the end of the first part the average equals the
    initial weights.

    Source: Khattak et al., PromptSRC, ICCV 2023.

    Args:
        parameters: tensors that training updates in place.
        total_steps: steps of the whole run.
        mean, std: of the density, as shares of the run.
        parts: E; in a run with fewer steps, every step is a part.
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
        if not std > 0:
            raise UserError(f"--gaussian-std {std}: must be above 0")
        if parts < 1:
            raise UserError(f"--gaussian-parts {parts}: must be at least 1")
        super().__init__(parameters)
        parts = min(parts, total_steps)
        ends = np.arange(1, parts + 1)
        exponents = -0.5 * ((ends / parts - mean) / std) ** 2
        weights = np.zeros(total_steps + 1)
        # Relative to the largest weight, so that a narrow density far from all parts does not underflow.
        weights[np.rint(ends * total_steps / parts).astype(int)] = np.exp(exponents - exponents.max())
        self.cumulative = np.cumsum(weights)

    def share(self, step: int) -> float:
        if step >= len(self.cumulative):
            raise ValueError(f"step {step} of a Gaussian average over {len(self.cumulative) - 1}")
        total = self.cumulative[step]
        return float(1 - self.cumulative[self.step] / total) if total else 0.0


def average_kind(options: AverageOptions, method: Method) -> str:
    """Return the kind of average of a run: the option, else the default of the method."""
    if not method.iterates:
        return "none"
    return options.average or method.average


def make_average(
    kind: str, parameters: Iterable[Tensor], total_steps: int, options: AverageOptions | None = None
) -> WeightAverage:
    """Create the weight average `kind`, one of `KINDS`.

    Args:
        kind: see `average_kind`.
        parameters: tensors that training updates in place.
        total_steps: steps of the whole run.
        options: settings of the average; default: those of `AverageOptions`.

    Raises:
        UserError: the kind is unknown.
    """
    o = options or AverageOptions()
    if kind == "none":
        return WeightAverage(parameters)
    if kind == "ema":
        return EMA(parameters, o.ema_decay)
    if kind == "bma":
        return BetaMovingAverage(parameters, total_steps, o.bma_beta)
    if kind == "gaussian":
        return GaussianAverage(parameters, total_steps, o.gaussian_mean, o.gaussian_std, o.gaussian_parts)
    if kind == "swad":
        return ValleyAverage(parameters, o.swad_converge, o.swad_tolerance, o.swad_ratio)
    raise UserError(f'--average "{kind}": choose one of {", ".join(KINDS)}')
