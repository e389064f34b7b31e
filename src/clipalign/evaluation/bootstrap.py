"""Bootstrap intervals over units that were drawn independently."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

DRAWS = 4000  # the ends of an interval then vary by about 2 % of its width
POWER = 1.96 + 0.84  # standard errors that a two-sided test at 5 % detects with a power of 80 %
BLOCK = 250  # draws in memory at a time


@dataclass(frozen=True)
class Estimate:
    """A share in [0, 1], or a difference of shares, with its 95 % interval and standard error."""

    value: float
    low: float
    high: float
    error: float

    @property
    def detectable(self) -> float:
        """Smallest true value that a test of this size detects with a power of 80 % at a level of 5 %."""
        return POWER * self.error

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


class UnitValues(NamedTuple):
    """Sums over the views of each unit.

    Attributes:
        units: [u] identities, distinct.
        values: [u] sum of the values of a unit's views.
        views: [u] number of views of a unit.
    """

    units: np.ndarray
    values: np.ndarray
    views: np.ndarray


def bootstrap(parts: Sequence[UnitValues], seed: int = 0, draws: int = DRAWS) -> Estimate:
    """Estimate the mean over parts of sum(values) / sum(views), resampling units.

    Args:
        parts: one per target. A unit that occurs in several parts is drawn once for all of them, which keeps their
            correlation.
        seed: seed of the draws.
        draws: number of bootstrap samples.

    Returns:
        The value, with the 2.5th and 97.5th percentile and the standard deviation over draws.
    """
    units = np.unique(np.concatenate([part.units for part in parts]))
    values, views = (np.zeros((len(units), len(parts))) for _ in range(2))  # [n, parts]
    for i, part in enumerate(parts):
        at = np.searchsorted(units, part.units)
        values[at, i], views[at, i] = part.values, part.views
    generator = np.random.default_rng(seed)
    n = len(units)
    means = []
    for start in range(0, draws, BLOCK):
        size = min(BLOCK, draws - start)
        counts = generator.multinomial(
            n, np.full(n, 1 / n), size=size
        )  # [size, n] times that a unit is drawn
        drawn = counts @ views  # [size, parts]
        with np.errstate(invalid="ignore", divide="ignore"):
            means.append(np.where(drawn > 0, counts @ values / drawn, 0).mean(axis=1))  # [size]
    samples = np.concatenate(means)  # [draws]
    low, high = np.percentile(samples, [2.5, 97.5])
    value = float((values.sum(axis=0) / views.sum(axis=0)).mean())
    return Estimate(value, float(low), float(high), float(samples.std(ddof=1)))
