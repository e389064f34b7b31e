"""What fine-tuning cost on classes it did not train: the new classes after it, against zero-shot."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .tables import Row, label_rows, order_labels

ZERO_SHOT = "zeroshot"


@dataclass(frozen=True)
class Forgetting:
    """Accuracy in [0, 1] on new classes, mean over seeds, of one line of a table.

    Attributes:
        label: the method, and what tells its runs apart.
        protocol, target: where it was measured.
        before: zero-shot on the same images among the same names.
        after: with the fine-tuned weights.
    """

    label: str
    protocol: str
    target: str | None
    before: float
    after: float

    def __str__(self) -> str:
        points = 100 * (self.after - self.before)
        where = self.protocol if self.target is None else f"{self.protocol}, {self.target}"
        numbers = f"{where}: {100 * self.before:.1f} % zero-shot, {100 * self.after:.1f} % after"
        if abs(points) < 0.05:
            return f"{self.label} forgot nothing on classes it was not trained on ({numbers})."
        verb = "forgot" if points < 0 else "gained"
        return f"{self.label} {verb} {abs(points):.1f} points on classes it was not trained on ({numbers})."


def forgetting(rows: Iterable[Row]) -> list[Forgetting]:
    """Compare the test set "new" of every method with that of zero-shot on the same split.

    Returns:
        One entry per split and method; none where zero-shot was not run.
    """
    splits: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row["test"] == "new":
            key = tuple(row.get(name) for name in ("data", "protocol", "backbone", "target", "split_hash"))
            splits.setdefault(key, []).append(row)
    found = []
    for (_, protocol, _, target, _), group in splits.items():
        accuracies: dict[str, list[float]] = {}
        trained = set()
        for label, row in label_rows(group):
            accuracies.setdefault(label, []).append(float(row["accuracy"]))
            if row["method"] != ZERO_SHOT:
                trained.add(label)
        before = [value for label, values in accuracies.items() if label not in trained for value in values]
        for label in order_labels(trained) if before else []:
            after = statistics.fmean(accuracies[label])
            found.append(Forgetting(label, str(protocol), target, statistics.fmean(before), after))
    return found
