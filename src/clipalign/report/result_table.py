"""A table of results: cells are means over seeds, of shares in [0, 1] or of values in another unit."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from ..evaluation.metrics.base import printed_scale

# A mean is printed in bold if it exceeds all others by more than this many standard errors.
SIGNIFICANT = 2.0


@dataclass(frozen=True)
class Cell:
    """Mean of a metric over seeds; by default of a share in [0, 1], printed in percent.

    Attributes:
        mean: mean over seeds.
        std: sample standard deviation over seeds; None for one seed.
        seeds: number of seeds.
        sampling: variance of the mean over test sets of the same size, as if images were independent.
        unit: "%" for shares in [0, 1], printed times 100; otherwise the unit of the value as it is stored.
        digits: decimals of the printed value.
        higher_is_better: None if neither direction is.
    """

    mean: float
    std: float | None
    seeds: int
    sampling: float = 0.0
    unit: str = "%"
    digits: int = 1
    higher_is_better: bool | None = True

    @classmethod
    def of(cls, values: Sequence[float], sampling: float = 0.0) -> Cell:
        """Summarise one value per seed."""
        std = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), std, len(values), sampling)

    @property
    def scale(self) -> float:
        """Factor between the stored and the printed value."""
        return printed_scale(self.unit)

    @property
    def variance(self) -> float:
        """Squared standard error of the mean, over seeds and over test sets."""
        return (self.std or 0.0) ** 2 / self.seeds + self.sampling

    @property
    def has_error(self) -> bool:
        """Whether a standard error is known."""
        return self.std is not None or self.sampling > 0

    def exceeds(self, other: Cell) -> bool:
        """Return whether this mean is better by more than `SIGNIFICANT` standard errors of the difference.

        Both cells are taken as independent. Methods are tested on the same images, so this errs towards False. It is
        False if the error of either mean is unknown: a single seed of a metric without a sampling variance.
        """
        if self.higher_is_better is None or not (self.has_error and other.has_error):
            return False
        gain = self.mean - other.mean if self.higher_is_better else other.mean - self.mean
        return gain > SIGNIFICANT * sqrt(self.variance + other.variance)

    def __str__(self) -> str:
        """Format in percent or another unit: "41.3" or "41.3 ± 0.8"."""
        mean = f"{self.scale * self.mean:.{self.digits}f}"
        return mean + ("" if self.std is None else f" ± {self.scale * self.std:.{self.digits}f}")


def sampling_variance(share: float, n: int) -> float:
    """Return the binomial variance of a share of n independent images.

    >>> sampling_variance(0.5, 100)
    0.0025
    """
    return max(share * (1 - share), 0.0) / n if n else 0.0


@dataclass(frozen=True)
class TableLine:
    """One line of a table.

    Attributes:
        labels: one per label column; the last one is the method's.
        cells: one per value column; None if not measured.
        seeds: number of seeds, as text ("3" or "2-3").
    """

    labels: tuple[str, ...]
    cells: tuple[Cell | None, ...]
    seeds: str


@dataclass(frozen=True)
class ResultTable:
    """Results in percent or the unit of each cell, independent of the output format.

    Attributes:
        title: data, protocol and backbone.
        heads: heads of the label columns.
        columns: heads of the value columns.
        lines: one per label, or per target and label.
        notes: sentences below the table.
    """

    title: str
    heads: tuple[str, ...]
    columns: tuple[str, ...]
    lines: tuple[TableLine, ...]
    notes: tuple[str, ...] = ()

    def best(self, line: TableLine, column: int) -> bool:
        """Return whether a cell exceeds all others of its column and target by more than noise."""
        cell = line.cells[column]
        rivals = [
            other.cells[column]
            for other in self.lines
            if other is not line and other.labels[:-1] == line.labels[:-1]
        ]
        known = [rival for rival in rivals if rival is not None]
        return cell is not None and bool(known) and all(cell.exceeds(rival) for rival in known)

    def starts_group(self, index: int) -> bool:
        """Return whether a line is the first of its target."""
        if len(self.heads) < 2:
            return False
        return index == 0 or self.lines[index].labels[0] != self.lines[index - 1].labels[0]
