"""Sections of a report. Each returns its parts, or none if the runs lack what it needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..evaluation.bootstrap import POWER
from ..evaluation.metrics import ROW_KINDS, arrange, measured_fields, row_cells
from ..explain.figures import save
from ..runs.folder import MetricLine
from ..runs.options import is_pocket
from .collect import StoredRun
from .comparison import Difference
from .curves import plot_curves
from .document import Bullets, Code, Grid, Heading, Paragraph, Part, Picture, Results
from .forgetting import forgetting
from .result_table import ResultTable
from .rows import LabelledRow, ReportRow, by_task, label_rows, order_labels
from .style import LineStyle

POCKET = (
    "The pocket model is a test vehicle: a small CLIP, pre-trained on drawings within hours, with which every part of "
    "the pipeline runs anywhere in minutes. Its numbers compare methods under one setting; they do not transfer to "
    "photographs or to models of another size."
)
ONE_SEED = (
    "Each line is a single run. Another seed would move it; differences of that size are no evidence that one method "
    "is better."
)


def summary(runs: Sequence[StoredRun]) -> list[Part]:
    """Return a sentence on methods, data, protocols, seeds and training time."""
    rows = [row for run in runs for row in run.results]
    tasks = dict.fromkeys(_task(row.protocol, row.target) for row in rows)
    seeds = sorted({row.seed for row in rows})
    seconds = sum(run.results[0].seconds or 0 for run in runs)
    text = (
        f"{_count(len(runs), 'run')} of {', '.join(order_labels(run.method for run in runs))} "
        f"with backbone {_distinct(row.backbone for row in rows)} on {_distinct(row.data for row in rows)}: "
        f"{', '.join(tasks)}; {'seed' if len(seeds) == 1 else 'seeds'} {_distinct(seeds)}. "
        f"Total training time: {seconds:.0f} seconds."
    )
    return [Paragraph(text)]


def accuracy_section(tables: Sequence[ResultTable]) -> list[Part]:
    """Return the tables of accuracies."""
    return [Heading("Accuracy"), *(Results(table) for table in tables)] if tables else []


def difference_section(differences: Sequence[Difference]) -> list[Part]:
    """Return a table of differences from the baseline per task, with their intervals."""
    if not differences:
        return []
    note = (
        "In percentage points, on the same images, averaged over seeds. Interval: bootstrap over the n independent "
        "units; it describes another test set of the same kind, not another seed. Beyond 0, and bold: the "
        "interval excludes 0, which one in twenty does by chance. Detectable: the smallest true difference that a test "
        f"of this size detects with a power of 80 % ({POWER:.1f} standard errors)."
    )
    heads = ("target", "test", "method", "difference", "95 % interval", "beyond 0", "detectable", "n")
    grids = []
    for task, baseline in dict.fromkeys((d.task, d.baseline) for d in differences):
        found = [d for d in differences if (d.task, d.baseline) == (task, baseline)]
        lines = tuple(_difference(d) for d in found)
        bold = frozenset(
            (i, column) for i, d in enumerate(found) if d.estimate.excludes_zero for column in (3, 4)
        )
        grids.append(Grid(heads, lines, note, labels=3, title=f"{task}: method minus {baseline}", bold=bold))
    return [Heading("Differences"), *grids]


def _difference(difference: Difference) -> tuple[str, ...]:
    d, e = difference, difference.estimate
    if e.low == e.high == 0:
        interval = "equal on all units"
    else:
        low, high = distinct(100 * e.low, 100 * e.high)
        interval = f"{low} to {high}"
    facts = (d.target, d.test, d.label, signed(100 * e.value), interval)
    return (*facts, "yes" if e.excludes_zero else "no", f"{100 * e.detectable:.1f}", f"{d.units} {d.unit}")


def distinct(low: float, high: float, decimals: int = 1) -> tuple[str, str]:
    """Format two ends of an interval with as many decimals as keep them apart, at most 6.

    >>> distinct(-0.31, 1.04), distinct(0.011, 0.018), distinct(-0.00002, 0.00001)
    (('-0.3', '+1.0'), ('+0.01', '+0.02'), ('-0.00002', '+0.00001'))
    """
    for count in range(decimals, 7):
        ends = signed(low, count), signed(high, count)
        if ends[0] != ends[1]:
            break
    return ends


def signed(value: float, decimals: int = 1) -> str:
    """Format a number with its sign; zero has none.

    >>> signed(1.25), signed(-0.04), signed(-0.04, 2)
    ('+1.2', '0.0', '-0.04')
    """
    text = f"{value:+.{decimals}f}"
    return text if float(text) else text[1:]


def forgetting_section(rows: Sequence[ReportRow]) -> list[Part]:
    """Return the change of accuracy on classes that were not trained."""
    found = forgetting(rows)
    return [Heading("Forgetting"), Bullets(tuple(map(str, found)))] if found else []


def curve_section(runs: Sequence[StoredRun], folder: Path, styles: Mapping[str, LineStyle]) -> list[Part]:
    """Return one picture of training curves per table and target, with a curve per table line.

    Args:
        runs: those with metrics are drawn.
        folder: folder of the PNG files.
        styles: label -> style.
    """
    by_name = {run.name: run for run in runs}
    parts: list[Part] = []
    for task, rows in by_task(row for run in runs for row in run.rows()).items():
        # A run has rows of several test sets; its curves are drawn once.
        first: dict[str, LabelledRow] = {}
        for one in label_rows(rows):
            first.setdefault(one.row.run, one)
        for target in dict.fromkeys(row.result.target for row in rows):
            drawn = [one for one in first.values() if one.row.result.target == target]
            metrics: dict[str, list[list[MetricLine]]] = {}
            for label, row in drawn:
                if lines := by_name[row.run].metrics:
                    metrics.setdefault(label, []).append(lines)
            ordered = {label: metrics[label] for label in order_labels(metrics)}
            before = (row.result.validation for _, row in drawn if row.result.method == "zeroshot")
            figure = plot_curves(ordered, styles, next(before, None))
            if figure is not None:
                path = save(figure, folder / f"curves-{len(parts) + 1}.png")
                caption = (
                    f"{task.data}, {_task(task.protocol, target)}, {task.backbone}. Loss: mean over the steps "
                    "since the previous point; methods have different terms. Validation: held-out rows of the source "
                    "domains, with averaged weights if the method averages."
                )
                parts.append(Picture(path, "Loss and validation over steps", caption))
    return [Heading("Curves"), *parts] if parts else []


def row_section(rows: Sequence[ReportRow]) -> list[Part]:
    """Return every result row, and accuracy by domain for test sets of several domains."""
    if not rows:
        return []
    fields = measured_fields((row.result for row in rows), ROW_KINDS)
    heads = ("run", "target", "test", "seed", "steps", "n", *arrange(fields)[0], "seconds")
    lines = []
    for row in rows:
        r = row.result
        for variant, cells in row_cells(r, fields):
            test = f"{r.test}, {variant}" if variant else r.test
            facts = (row.run, r.target or "", test, r.seed, r.steps, r.n)
            lines.append((*map(str, facts), *cells, "" if r.seconds is None else f"{r.seconds:.0f}"))
    notes = ["In percent if no unit is given.", *dict.fromkeys(field.note for field in fields if field.note)]
    note = " ".join([*notes, "n: images (rows times fixed views)."])
    parts: list[Part] = [Heading("Every row"), Grid(heads, tuple(lines), note, labels=3)]
    several = [row for row in rows if len(row.result.domain_accuracy) > 1]
    if several:
        domains = tuple(dict.fromkeys(name for row in several for name in row.result.domain_accuracy))
        by_domain = tuple(
            (
                f"{row.run}: {row.result.test}",
                *(_percent(row.result.domain_accuracy.get(name)) for name in domains),
            )
            for row in several
        )
        parts.append(Grid(("run: test", *domains), by_domain, "Accuracy in percent by domain."))
    return parts


def command_section(runs: Sequence[StoredRun]) -> list[Part]:
    """Return the commands that reproduce the rows, with split hashes and versions."""
    commands = dict.fromkeys(run.command for run in runs if run.command)
    rows = [row for run in runs for row in run.results]
    hashes = _distinct(row.split_hash for row in rows if row.split_hash)
    versions = _distinct(row.version for row in rows if row.version)
    facts = [f"Split hash: {hashes}."] if hashes else []
    facts += [f"clipalign {versions}."] if versions else []
    parts: list[Part] = [Heading("Commands"), Code("\n".join(commands))]
    return [*parts, Paragraph(" ".join(facts))] if facts else parts


def caveat_section(rows: Sequence[ReportRow]) -> list[Part]:
    """Return warnings about the pocket model and single seeds."""
    texts = []
    if any(is_pocket(row.result.backbone) for row in rows):
        texts.append(POCKET)
    if any(row.result.steps for row in rows) and len({row.result.seed for row in rows}) == 1:
        texts.append(ONE_SEED)
    boxes = [Paragraph(text, caveat=True) for text in texts]
    return [Heading("Before you quote a number"), *boxes] if boxes else []


def _task(protocol: str | None, target: str | None) -> str:
    return (protocol or "each domain") + (f", target {target}" if target else "")


def _distinct(values: Iterable[object]) -> str:
    return ", ".join(dict.fromkeys(map(str, values)))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"
