"""Cells of published tables next to measured ones, each with a verdict.

A measured mean agrees with a published one if they differ by no more than two standard deviations, the published ± and
the measured one over seeds taken as independent. A publication without ± is taken to have the measured one. Rounding to
the printed digits is always allowed for. Different conditions make cells incomparable, whatever their values.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from statistics import fmean
from typing import Literal

from ..data.published.declarations import SHIFT, SHIFT_MEMBERS, caption_sets, image_sets
from .document import Bullets, Grid, Heading, Paragraph, Part
from .measurements import MEAN, MEANS_OVER_DATA, Measurement, average
from .published import PublishedNumber, differences
from .rows import ReportRow
from .sections import signed

Verdict = Literal["within spread", "above", "below", "not comparable", "not measured"]
SPREADS = 2.0  # a difference of more standard deviations than this is a disagreement
CSV_HEADS = (
    *("source", "table", "data", "protocol", "target", "test", "metric", "method", "options"),
    *("measured", "measured_std", "seeds", "published", "published_std", "verdict", "reasons"),
)


@dataclass(frozen=True)
class ComparedCell:
    """A published number, its measurement and the verdict.

    Attributes:
        number: published number.
        measured: measurement with the fewest differences; None if there is none.
        verdict: see the head of this file.
        reasons: why the cell is not comparable.
    """

    number: PublishedNumber
    measured: Measurement | None
    verdict: Verdict
    reasons: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Verdict with its reasons."""
        return self.verdict + (f" because {'; '.join(self.reasons)}" if self.reasons else "")


def compare_cells(
    numbers: Iterable[PublishedNumber],
    found: Sequence[Measurement],
    reasons: Sequence[str] = (),
    incomplete: Mapping[str, str] | None = None,
) -> list[ComparedCell]:
    """Compare published numbers with measurements.

    Args:
        numbers: published numbers.
        found: measurements.
        reasons: conditions in which all runs differ from the publication.
        incomplete: data set -> how its test images differ from the published ones; see `other_images`.
    """
    cells = []
    for number in numbers:
        fitting = [(d, m) for m in found if (d := differences(number, m)) is not None]
        if not fitting:
            cells.append(ComparedCell(number, None, "not measured"))
            continue
        difference, measured = min(fitting, key=lambda pair: len(pair[0]))
        members = MEANS_OVER_DATA.get(number.protocol, {}).get(number.data, (number.data,))
        images = [text for data, text in (incomplete or {}).items() if data in members]
        against = (*difference, *reasons, *images)
        verdict: Verdict = "not comparable" if against else verdict_of(number, measured)
        cells.append(ComparedCell(number, measured, verdict, against))
    return cells


def verdict_of(number: PublishedNumber, measured: Measurement) -> Verdict:
    """Return the verdict on a comparable measurement.

    The allowed difference is 2 sqrt(published std² + measured std²), plus half a unit of the last printed digit.
    """
    cell = measured.cell
    own = 100 * (cell.std or 0.0)
    published = float(number.std_percent) if number.std_percent else own
    rounding = 0.5 * 10.0 ** -len(number.percent.partition(".")[2])
    difference = 100 * cell.mean - float(number.percent)
    # The epsilon keeps a difference of exactly the rounding inside, whatever the binary representation.
    if abs(difference) <= SPREADS * sqrt(published**2 + own**2) + rounding + 1e-9:
        return "within spread"
    return "above" if difference > 0 else "below"


def on_other_data(
    numbers: Iterable[PublishedNumber], found: Sequence[Measurement], data: str
) -> tuple[list[PublishedNumber], list[Measurement]]:
    """Return published means over data sets and targets, and measured means over the targets of another data set.

    Args:
        numbers: published numbers; means over data sets are left out.
        found: measurements on the other data set.
        data: its name.
    """
    groups: dict[PublishedNumber, list[PublishedNumber]] = {}
    for number in numbers:
        if not number.data.startswith("mean-of-"):
            target = MEAN if number.target else ""
            template = "default" if number.template else ""
            key = replace(
                number, data=data, target=target, percent="", std_percent="", note="", template=template
            )
            groups.setdefault(key, []).append(number)
    means = [
        replace(
            key,
            percent=f"{fmean(float(number.percent) for number in group):.1f}",
            note=f"mean of {len(group)} published values" if len(group) > 1 else group[0].note,
        )
        for key, group in groups.items()
    ]
    lines: dict[tuple[str, ...], list[Measurement]] = {}
    for m in found:
        if m.data == data and m.target:
            lines.setdefault((m.label, m.protocol, m.test, m.metric, m.backbone), []).append(m)
    averages = [mean for line in lines.values() for mean in average(line, target=MEAN)]
    return means, [*found, *averages]


def other_images(rows: Iterable[ReportRow]) -> dict[str, str]:
    """Return data sets whose number of test images is not the published one, with both numbers."""
    counted: dict[tuple[str, str, str, str], dict[str, int]] = {}
    for row in rows:
        result = row.result
        key = (result.data, result.protocol or "", result.target or "", row.run)
        counted.setdefault(key, {})[result.test] = result.n
    found: dict[str, str] = {}
    for (data, protocol, target, _), tests in counted.items():
        for test, n in _totals(protocol, tests).items():
            published = published_images(data, protocol, target, test)
            if published and n not in published:
                place = " ".join(filter(None, (data, target, test)))
                wanted = " or ".join(map(str, sorted(published)))
                found.setdefault(data, f"{place} has {n} test images instead of {wanted}")
    return found


def _totals(protocol: str, tests: Mapping[str, int]) -> dict[str, int]:
    """Return the tests whose published size is known; base and new images are counted together."""
    if protocol == "base-to-new":
        return {"base and new": sum(tests.values())} if len(tests) == 2 else {}
    return dict(tests)


def published_images(data: str, protocol: str, target: str, test: str) -> set[int]:
    """Return the published numbers of images of a test set, one per release in use; none if they are unknown.

    >>> sorted(published_images("vlcs", "domain-shift", "SUN09", "out"))
    [656]
    """
    if data in caption_sets():
        return set(caption_sets()[data].counts[:1])
    if data == SHIFT:
        return {counts[2] for counts in image_sets()[test].counts} if test in SHIFT_MEMBERS else set()
    declared = image_sets().get(data)
    if declared is None:
        return set()
    if protocol == "base-to-new":
        return {counts[2] for counts in declared.counts}
    if target in declared.domains and test in ("all", "in", "out"):
        sizes = [counts[declared.domains.index(target)] for counts in declared.counts]
        out = [n // 5 for n in sizes]  # DomainBed's 20 %, rounded down
        parts = {"all": sizes, "out": out, "in": [n - o for n, o in zip(sizes, out, strict=True)]}
        return set(parts[test])
    return set()


def verdict_sections(title: str, cells: Sequence[ComparedCell], notes: Sequence[str]) -> list[Part]:
    """Return a report: verdicts counted, one table per published table, and notes."""
    counts = Counter(cell.verdict for cell in cells)
    text = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
    counted = f" {len(cells)} published cells: {text}." if cells else " No published numbers."
    parts: list[Part] = [Paragraph(f"{title}.{counted}")]
    note = (
        "In percent; measured values are means over seeds, ± their standard deviation. Within spread: the difference "
        f"is at most {SPREADS:g} sqrt(published ±² + measured ±²), plus rounding of the print; without a published ±, "
        "the measured one counts twice."
    )
    heads = ("task", "test", "method", "measured", "seeds", "published", "difference", "verdict")
    for place in dict.fromkeys((cell.number.source, cell.number.table) for cell in cells):
        lines = [_line(cell) for cell in cells if (cell.number.source, cell.number.table) == place]
        parts += [Heading(", ".join(place)), Grid(heads, tuple(lines), note, labels=3)]
    marked = Counter(cell.number.note for cell in cells if cell.number.note)
    remarks = [*notes, *(f"{count} of the published cells: {text}." for text, count in marked.items())]
    return [*parts, Heading("Notes"), Bullets(tuple(remarks))] if remarks else parts


def cells_csv(cells: Iterable[ComparedCell]) -> str:
    """Return cells as CSV, in percent."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_HEADS)
    for cell in cells:
        number, measured = cell.number, cell.measured
        mean, std, seeds = "", "", ""
        if measured is not None:
            mean, seeds = f"{100 * measured.cell.mean:.4f}", str(measured.cell.seeds)
            std = "" if measured.cell.std is None else f"{100 * measured.cell.std:.4f}"
        names = [getattr(number, name) for name in CSV_HEADS[:9]]
        values = (mean, std, seeds, number.percent, number.std_percent, cell.verdict, "; ".join(cell.reasons))
        writer.writerow([*names, *values])
    return out.getvalue()


def _line(cell: ComparedCell) -> tuple[str, ...]:
    number, measured = cell.number, cell.measured
    values = ("–", "", str(number), "")
    if measured is not None:
        own = measured.cell
        difference = signed(100 * own.mean - float(number.percent))
        values = (str(own), str(own.seeds), str(number), difference)
    method = number.method + (f" ({number.options})" if number.options else "")
    return (number.task, number.test or number.metric, method, *values, cell.text)
