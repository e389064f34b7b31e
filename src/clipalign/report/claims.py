"""Statements of a publication about the order of lines, tested on the predictions of runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Literal

import numpy as np

from ..evaluation.bootstrap import Estimate, UnitValues, bootstrap
from .comparison import MIN_UNITS, Hits, paired_part
from .document import Grid
from .sections import distinct, signed

Outcome = Literal["holds", "does not hold", "undecided", "not measured"]


@dataclass(frozen=True)
class Claim:
    """A statement that some lines are more accurate than others.

    Attributes:
        text: the statement.
        higher, lower: names of lines, or patterns such as "layers-*"; a line in `higher` is not in `lower`.
    """

    text: str
    higher: tuple[str, ...] = ()
    lower: tuple[str, ...] = ()

    def pairs(self, lines: Iterable[str]) -> list[tuple[str, str]]:
        """Return the pairs of lines to compare, the higher one first.

        >>> Claim("", ("a",), ("*",)).pairs(["a", "b", "c"])
        [('a', 'b'), ('a', 'c')]
        """
        known = list(lines)
        above = [line for line in known if any(fnmatch(line, pattern) for pattern in self.higher)]
        below = [line for line in known if any(fnmatch(line, pattern) for pattern in self.lower)]
        return [(a, b) for a in above for b in below if b not in above]


@dataclass(frozen=True)
class Finding:
    """A difference that a statement says is positive.

    Attributes:
        place: task, or measure.
        pair: the two lines.
        estimate: difference with its interval; None if it was not measured.
        units: number and kind of the units that the interval resamples.
        digits: decimals; points (differences of shares times 100) have 1.
        scale: factor of the printed value.
    """

    place: str
    pair: str
    estimate: Estimate | None
    units: str = ""
    digits: int = 1
    scale: float = 100.0

    @property
    def outcome(self) -> Outcome:
        """Whether the interval lies above 0, below 0, or includes it."""
        if self.estimate is None:
            return "not measured"
        if not self.estimate.excludes_zero:
            return "undecided"
        return "holds" if self.estimate.value > 0 else "does not hold"


@dataclass(frozen=True)
class Verdict:
    """A statement with its findings."""

    text: str
    findings: tuple[Finding, ...] = field(default_factory=tuple)

    @property
    def outcome(self) -> Outcome:
        """Holds if all findings do; does not hold if any does not; else undecided."""
        outcomes = {finding.outcome for finding in self.findings} - {"not measured"}
        if not outcomes:
            return "not measured"
        if "does not hold" in outcomes:
            return "does not hold"
        return "holds" if outcomes == {"holds"} else "undecided"


def judge(
    claim: Claim, tasks: Mapping[str, Mapping[str, Mapping[str, Hits]]], units: Mapping[str, str]
) -> Verdict:
    """Compare the lines of a statement on the same images, on average over targets.

    Args:
        claim: the statement.
        tasks: task -> line -> target -> hits, averaged over seeds.
        units: task -> kind of its independent units.
    """
    findings = []
    for task, lines in tasks.items():
        for above, below in claim.pairs(lines):
            targets = [target for target in lines[above] if target in lines[below]]
            parts = [
                part
                for number, target in enumerate(targets)
                if (part := paired_part(lines[above][target], lines[below][target], number, units[task]))
                is not None
            ]
            findings.append(_finding(task, f"{above} minus {below}", parts, units[task]))
    return Verdict(claim.text, tuple(findings))


def _finding(task: str, pair: str, parts: Sequence[UnitValues], unit: str) -> Finding:
    count = len(np.unique(np.concatenate([part.units for part in parts]))) if parts else 0
    if count < MIN_UNITS:
        return Finding(task, pair, None)
    return Finding(task, pair, bootstrap(parts), f"{count} {unit}")


def verdict_grid(verdicts: Sequence[Verdict]) -> Grid:
    """Return a table of statements and findings; the verdict on a statement is on its first line."""
    lines: list[tuple[str, ...]] = []
    bold: set[tuple[int, int]] = set()
    for verdict in verdicts:
        rows = verdict.findings or (Finding("", "", None),)
        for i, finding in enumerate(rows):
            names = (verdict.text if i == 0 else "", verdict.outcome if i == 0 else "")
            values: tuple[str, ...] = ("–", "")
            if finding.estimate is not None:
                e, scale = finding.estimate, finding.scale
                if e.excludes_zero:
                    bold |= {(len(lines), 4), (len(lines), 5)}
                ends = distinct(scale * e.low, scale * e.high, finding.digits)
                values = (signed(scale * e.value, finding.digits), " to ".join(ends))
            lines.append((*names, finding.place, finding.pair, *values, finding.units, finding.outcome))
    heads = ("statement", "verdict", "on", "difference", "measured", "95 % interval", "over", "this one")
    note = (
        "Differences of accuracies are in percentage points, on the same images, averaged over seeds and targets. A "
        "statement holds if all its intervals lie above 0, does not hold if one lies below 0, and is undecided "
        "otherwise. Intervals describe other test images, not other seeds."
    )
    return Grid(heads, tuple(lines), note, labels=4, bold=frozenset(bold))
