"""What fine-tuning cost on classes it did not train: the new classes after it, against zero-shot."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .table import Row
from .tables import label_rows, order_labels


@dataclass(frozen=True)
class Forgetting:
    """Accuracy in [0, 1] on a test set of classes that were not trained, mean over seeds.

    Attributes:
        label: the line of the table: the method, and what tells its runs apart.
        protocol, target, test: where it was measured.
        before: zero-shot, on the same images among the same names.
        after: with the fine-tuned weights.
        seeds: runs behind the means.
    """

    label: str
    protocol: str
    target: str | None
    test: str
    before: float
    after: float
    seeds: int

    def __str__(self) -> str:
        points = 100 * (self.after - self.before)
        where = self.protocol if self.target is None else f"{self.protocol}, {self.target}"
        numbers = f"{where}: {100 * self.before:.1f} % zero-shot, {100 * self.after:.1f} % after"
        if abs(points) < 0.05:
            return f"{self.label} forgot nothing on classes not trained ({numbers})."
        verb = "forgot" if points < 0 else "gained"
        return f"{self.label} {verb} {abs(points):.1f} points on classes not trained ({numbers})."


def forgetting(rows: Iterable[Row]) -> list[Forgetting]:
    """Compare every row that knows its zero-shot accuracy with it; one entry per line of the tables."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row.get("zeroshot") is not None and row.get("accuracy") is not None:
            key = tuple(row.get(name) for name in ("data", "backbone", "protocol", "target", "test"))
            groups.setdefault(key, []).append(row)
    found = []
    for (_, _, protocol, target, test), group in groups.items():
        lines: dict[str, list[Row]] = {}
        for label, row in label_rows(group):
            lines.setdefault(label, []).append(row)
        for label in order_labels(lines):
            before, after = (
                statistics.fmean(float(row[name]) for row in lines[label])
                for name in ("zeroshot", "accuracy")
            )
            seeds = len(lines[label])
            found.append(Forgetting(label, str(protocol), target, str(test), before, after, seeds))
    return found
