"""Search spaces: the options that `clipalign tune` chooses, and the values that it tries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

Value: TypeAlias = float | str | None  # integers count as numbers


@dataclass(frozen=True)
class LogUniform:
    """Numbers whose logarithm is uniform in [log low, log high]; both bounds above 0."""

    low: float
    high: float

    def sample(self, generator: np.random.Generator) -> float:
        """Draw a value."""
        return rounded(float(np.exp(generator.uniform(np.log(self.low), np.log(self.high)))))


@dataclass(frozen=True)
class Uniform:
    """Numbers uniform in [low, high]."""

    low: float
    high: float

    def sample(self, generator: np.random.Generator) -> float:
        """Draw a value."""
        return rounded(float(generator.uniform(self.low, self.high)))


@dataclass(frozen=True)
class Choice:
    """One of several values, with equal probability."""

    values: tuple[Value, ...]

    def sample(self, generator: np.random.Generator) -> Value:
        """Draw a value."""
        return self.values[int(generator.integers(len(self.values)))]


@dataclass(frozen=True)
class Multiples:
    """Multiples of the value that the option has without a search, which depends on the recipe."""

    factors: tuple[float, ...]


Distribution: TypeAlias = LogUniform | Uniform | Choice
SearchSpace: TypeAlias = Mapping[str, Distribution | Multiples]

# Options of every method that iterates. The longest run is that of the recipe, so a search costs at most as much as the
# same number of its runs.
COMMON_SPACE: SearchSpace = {
    "lr": LogUniform(1e-6, 1e-3),
    "steps": Multiples((0.25, 0.5, 1)),
    "average": Choice(("none", "ema", "bma")),
}
# Learning rates of methods that train new parameters on a frozen backbone.
NEW_PARAMETERS: SearchSpace = {"lr": LogUniform(1e-4, 1e-1)}
BETAS = Choice((0.1, 0.5, 1.0))  # of the beta moving average


def rounded(value: float) -> float:
    """Return a value with three significant digits, as it is printed.

    >>> rounded(0.000123456)
    0.000123
    """
    return float(f"{value:.3g}")
