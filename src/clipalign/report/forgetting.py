"""Forgetting: accuracy on classes that were not trained, before and after fine-tuning."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from .rows import ReportRow, by_task, label_rows, order_labels


@dataclass(frozen=True)
class Forgetting:
    """Accuracy in [0, 1] on a test set without trained classes, mean over seeds.

    Attributes:
        label: table line.
        protocol, target, test: test set.
        before: zero-shot accuracy on the same images and class names.
        after: accuracy of the fine-tuned model.
        seeds: number of runs.
    """

    label: str
    protocol: str | None
    target: str | None
    test: str
    before: float
    after: float
    seeds: int

    def __str__(self) -> str:
        points = 100 * (self.after - self.before)
        task = ", ".join(filter(None, (self.protocol, self.target)))
        numbers = f"{task}: {100 * self.before:.1f} % zero-shot, {100 * self.after:.1f} % after"
        if abs(points) < 0.05:
            return f"{self.label} forgot nothing on classes not trained ({numbers})."
        verb = "forgot" if points < 0 else "gained"
        return f"{self.label} {verb} {abs(points):.1f} points on classes not trained ({numbers})."


def forgetting(rows: Iterable[ReportRow]) -> list[Forgetting]:
    """Compare the accuracy of each table line with the zero-shot accuracy in its rows, if they have both."""
    found = []
    measured = (row for row in rows if None not in (row.result.zeroshot, row.result.accuracy))
    for task, group in by_task(measured).items():
        for target, test in dict.fromkeys(row.place for row in group):
            lines: dict[str, list[ReportRow]] = {}
            for label, row in label_rows([row for row in group if row.place == (target, test)]):
                lines.setdefault(label, []).append(row)
            for label in order_labels(lines):
                before, after = (
                    statistics.fmean(row.result.value(name) or 0.0 for row in lines[label])
                    for name in ("zeroshot", "accuracy")
                )
                seeds = len(lines[label])
                found.append(Forgetting(label, task.protocol, target, test, before, after, seeds))
    return found
