"""Published numbers next to measured ones, in columns of their own."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

from ..evaluation.metrics import METRICS
from .document import Grid, Heading, Part
from .rows import ReportRow, is_retrieval

ASSETS = Path(__file__).resolve().parents[1] / "assets"
SOURCE = "AlignCLIP, tables 1 to 6"
T = TypeVar("T")


@dataclass(frozen=True)
class PublishedAccuracy:
    """Accuracy of a paper, in percent as printed.

    Attributes:
        table: number of the paper's table.
        data, protocol, target, test, method: as in a result row; target "mean" is the mean over targets.
        backbone: backbone of the paper.
        percent, std_percent: value, and the paper's ± if it prints one.
        note: derivation of a value that is not printed itself.
    """

    table: str
    data: str
    protocol: str
    target: str
    test: str
    method: str
    backbone: str
    percent: str
    std_percent: str
    note: str

    def __str__(self) -> str:
        return self.percent + (f" ± {self.std_percent}" if self.std_percent else "")


@dataclass(frozen=True)
class PublishedRecall:
    """Recall of a paper, in percent as printed.

    Attributes:
        source: paper and table.
        data, test, method: as in a result row.
        backbone: backbone of the paper.
        recall: field of a result row.
        percent: value.
        note: what matters for a comparison.
    """

    source: str
    data: str
    test: str
    method: str
    backbone: str
    recall: str
    percent: str
    note: str


@cache
def published_accuracies() -> tuple[PublishedAccuracy, ...]:
    """Return all published accuracies of the package."""
    return _read(ASSETS / "published.csv", PublishedAccuracy)


@cache
def published_recalls() -> tuple[PublishedRecall, ...]:
    """Return all published recalls of the package."""
    return _read(ASSETS / "published_retrieval.csv", PublishedRecall)


def _read(path: Path, kind: type[T]) -> tuple[T, ...]:
    """Read one object per line of a CSV whose columns are the fields of `kind`."""
    with path.open(encoding="utf-8", newline="") as file:
        return tuple(kind(**line) for line in csv.DictReader(file))


def published_accuracy_section(rows: Sequence[ReportRow]) -> list[Part]:
    """Return measured means over seeds next to the published accuracies of the same method and test set."""
    measured: dict[tuple[str, str, str, str, str, str], list[float]] = {}
    for row in (row.result for row in rows):
        for test, value in ((row.test, row.accuracy), ("h", row.h)):
            # All rows of a run hold its h; that of the base classes is taken.
            if value is not None and (test != "h" or row.test == "base"):
                key = (row.data, row.protocol or "", row.target or "", test, row.method, row.backbone)
                measured.setdefault(key, []).append(value)
    numbers = {
        (p.data, p.protocol, p.target, p.test, p.method): p
        for p in published_accuracies()
        if "CLIP" in p.backbone
    }
    lines = []
    for (data, protocol, target, test, method, backbone), values in measured.items():
        number = numbers.get((data, protocol, target, test, method))
        if number is not None:
            task = f"{data}, {protocol}" + (f", {target}" if target else "")
            mean = f"{100 * statistics.fmean(values):.1f}"
            lines.append((task, test, method, backbone, mean, str(number), number.backbone))
    if not lines:
        return []
    note = (
        f"In percent. Published: {SOURCE}, as printed; ± as defined there. Published numbers enter no other table or "
        "plot. Compare only if backbone, split and training are the same."
    )
    heads = ("task", "test", "method", "backbone", "measured", "published", "published backbone")
    return [Heading("Published numbers"), Grid(heads, tuple(lines), note, labels=4)]


def published_recall_section(rows: Sequence[ReportRow]) -> list[Part]:
    """Return measured means over seeds next to the published recalls of the same method and test set."""
    measured: dict[tuple[str, str, str, str, str], list[float]] = {}
    titles = {field.name: field.title for field in METRICS.get("recall").fields if not field.variant}
    for row in (row.result for row in rows if is_retrieval(row)):
        for name in titles:
            if (value := row.value(name)) is not None:
                key = (row.data, row.test, row.method, row.backbone, name)
                measured.setdefault(key, []).append(value)
    lines = []
    for (data, test, method, backbone, name), values in measured.items():
        for number in published_recalls():
            if (number.data, number.test, number.method, number.recall) == (data, test, method, name):
                mean = f"{100 * statistics.fmean(values):.1f}"
                source = number.source + (f"; {number.note}" if number.note else "")
                facts = (data, titles[name], method, backbone)
                lines.append((*facts, mean, number.percent, number.backbone, source))
    if not lines:
        return []
    note = (
        "In percent. Published: as printed. Published numbers enter no other table or plot. Compare only if backbone, "
        "training, length of the text window and images are the same."
    )
    heads = ("data", "recall", "method", "backbone", "measured", "published", "published backbone", "source")
    return [Heading("Published recalls"), Grid(heads, tuple(lines), note, labels=4)]
