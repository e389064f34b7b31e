"""The parts of a table: rows that go in, cells and lines that come out."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """Accuracies in [0, 1] over seeds.

    Attributes:
        mean: over seeds.
        std: sample standard deviation; None for one seed.
        seeds: how many.
    """

    mean: float
    std: float | None
    seeds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Cell:
        """Mean and standard deviation of one value per seed."""
        return cls(
            statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values)
        )

    def __str__(self) -> str:
        """In percent: "41.3" or "41.3 ± 0.8"."""
        return f"{100 * self.mean:.1f}" + ("" if self.std is None else f" ± {100 * self.std:.1f}")


@dataclass(frozen=True)
class Line:
    """One line: its labels, then a cell per column (None: not measured)."""

    labels: tuple[str, ...]
    cells: tuple[Cell | None, ...]
    seeds: str


@dataclass(frozen=True)
class Table:
    """Accuracies in percent, ready to be written in any form.

    Attributes:
        title: data, protocol and backbone.
        heads: heads of the label columns.
        columns: heads of the cells.
        lines: what was measured.
        notes: what the reader has to know about the numbers.
    """

    title: str
    heads: tuple[str, ...]
    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = field(default=())

    def best(self, line: Line, column: int) -> bool:
        """True where the mean is the highest of several in the lines of one target, and they differ."""
        cell = line.cells[column]
        rivals = [other.cells[column] for other in self.lines if other.labels[:-1] == line.labels[:-1]]
        means = [rival.mean for rival in rivals if rival is not None]
        return cell is not None and cell.mean == max(means) > min(means)
