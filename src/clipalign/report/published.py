"""Published numbers beside measured ones, in columns of their own."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

from .document import Grid, Heading, Part
from .table import Row

FILE = Path(__file__).resolve().parents[1] / "assets" / "published.csv"
SOURCE = "AlignCLIP, tables 1 to 6"
T = TypeVar("T")


@dataclass(frozen=True)
class Published:
    """A number of a paper, in percent as printed.

    Attributes:
        table: its number. data, protocol, target, test, method: as in a result row; target "mean" is the mean
            over targets. backbone: of the paper. note: what it was derived from, where it is not printed itself.
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


@cache
def published() -> tuple[Published, ...]:
    """All numbers that ship with the package."""
    return read_numbers(FILE, Published)


def read_numbers(path: Path, kind: type[T]) -> tuple[T, ...]:
    """One object per line of a CSV whose columns are the fields of `kind`."""
    with path.open(encoding="utf-8", newline="") as file:
        return tuple(kind(**line) for line in csv.DictReader(file))


def published_beside(rows: Sequence[Row]) -> list[Part]:
    """Measured means over seeds, and what was published for the same data, protocol, target, test and method.

    Returns:
        Nothing where no row has a published counterpart.
    """
    measured: dict[tuple[str, ...], list[float]] = {}
    for row in rows:
        place = tuple(str(row.get(k) or "") for k in ("data", "protocol", "target"))
        who = (str(row["method"]), str(row["backbone"]))
        for test, value in ((str(row["test"]), row.get("accuracy")), ("h", row.get("h"))):
            if value is not None and (test != "h" or row["test"] == "base"):
                measured.setdefault((*place, test, *who), []).append(float(value))
    numbers = {
        (p.data, p.protocol, p.target, p.test, p.method): p for p in published() if "CLIP" in p.backbone
    }
    lines = []
    for (data, protocol, target, test, method, backbone), values in measured.items():
        number = numbers.get((data, protocol, target, test, method))
        if number is not None:
            ours = f"{100 * statistics.fmean(values):.1f}"
            where = f"{data}, {protocol}" + (f", {target}" if target else "")
            lines.append((where, test, method, backbone, ours, str(number), number.backbone))
    if not lines:
        return []
    note = (
        f"In percent. Published: {SOURCE}, as printed, never mixed with what was measured here; ± as its authors "
        "mean it. Compare only where backbone, split and training are the same."
    )
    heads = ("task", "test", "method", "backbone", "measured", "published", "published backbone")
    return [Heading("Published numbers"), Grid(heads, tuple(lines), note, labels=4)]
