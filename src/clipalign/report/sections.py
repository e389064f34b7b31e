"""The sections of a report, each from what the runs wrote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..explain.figures import save
from ..runs.options import is_pocket
from .collect import Found
from .curves import plot_curves
from .document import Accuracies, Bullets, Code, Grid, Heading, Paragraph, Part, Picture
from .forgetting import forgetting
from .pictures import picture_parts
from .tables import Row, Table, label_rows, order_labels

POCKET = (
    "The pocket model is a test vehicle: a small CLIP, pre-trained for hours on drawings, that makes every "
    "part of the pipeline run anywhere in minutes. Its numbers compare methods under one setting; they say "
    "nothing about photographs, or about models of another size."
)
ONE_SEED = (
    "Each line is one run. Another seed would move it; differences that small are not evidence that one "
    "method is better."
)


def summary(runs: Sequence[Found]) -> list[Part]:
    """What was run, in a sentence or two."""
    rows = [row for run in runs for row in run.results]
    tasks = dict.fromkeys(_task(row.protocol, row.target) for row in rows)
    seeds = sorted({row.seed for row in rows})
    seconds = sum(run.results[0].seconds or 0 for run in runs)
    text = (
        f"{_count(len(runs), 'run')} of {', '.join(order_labels(run.method for run in runs))} "
        f"with backbone {_all(row.backbone for row in rows)} on {_all(row.data for row in rows)}: "
        f"{', '.join(tasks)}; {'seed' if len(seeds) == 1 else 'seeds'} {_all(seeds)}. "
        f"Training took {seconds:.0f} seconds in all."
    )
    return [Paragraph(text)]


def accuracies(tables: Sequence[Table]) -> list[Part]:
    """The tables; nothing without any."""
    return [Heading("Accuracy"), *(Accuracies(table) for table in tables)] if tables else []


def forgotten(rows: Sequence[Row]) -> list[Part]:
    """What was lost on classes not trained; nothing where it was not measured."""
    found = forgetting(rows)
    return [Heading("What was forgotten"), Bullets(tuple(map(str, found)))] if found else []


def curves(runs: Sequence[Found], folder: Path) -> list[Part]:
    """One picture per task, a curve per line of its table; nothing where nothing was trained."""
    tasks: dict[tuple[Any, ...], list[Found]] = {}
    for run in runs:
        row = run.results[0]
        task = (row.data, row.backbone, row.protocol, row.target, row.split_hash)
        tasks.setdefault(task, []).append(run)
    parts: list[Part] = []
    for (data, backbone, protocol, target, _), group in tasks.items():
        by_name = {run.name: run for run in group}
        metrics: dict[str, list[list[dict[str, Any]]]] = {}
        for label, first in label_rows([run.rows()[0] for run in group]):
            if lines := by_name[first["run"]].metrics:
                metrics.setdefault(label, []).append(lines)
        zero_shot = next((run.results[0].validation for run in group if run.method == "zeroshot"), None)
        figure = plot_curves({label: metrics[label] for label in order_labels(metrics)}, zero_shot)
        if figure is not None:
            path = save(figure, folder / f"curves-{len(parts) + 1}.png")
            caption = (
                f"{data}, {_task(protocol, target)}, {backbone}. Loss: mean over the steps since the last "
                "point; methods have different terms. Validation: held-out rows of the source domains, with "
                "averaged weights where the method averages."
            )
            parts.append(Picture(path, "Loss and validation over steps", caption))
    return [Heading("Curves"), *parts] if parts else []


def pictures(runs: Sequence[Found], folder: Path, count: int) -> list[Part]:
    """Test images with their maps, and scores of the maps."""
    parts = picture_parts(runs, folder, count)
    return [Heading("Where the models look"), *parts] if parts else []


def every_row(rows: Sequence[Row]) -> list[Part]:
    """Every result row, and accuracy by domain where a test set has several; nothing without rows."""
    if not rows:
        return []
    heads = ("run", "target", "test", "seed", "steps", "n", "accuracy", "top-5", "class mean", "h", "seconds")
    lines = []
    for row in rows:
        place = (row["run"], row.get("target") or "", row["test"], row["seed"], row["steps"], row["n"])
        shares = (_percent(row.get(name)) for name in ("accuracy", "top5", "class_accuracy", "h"))
        seconds = "" if row.get("seconds") is None else f"{row['seconds']:.0f}"
        lines.append((*map(str, place), *shares, seconds))
    note = (
        "In percent. Class mean: accuracy of each class, averaged. n: images, that is rows times fixed views."
    )
    parts: list[Part] = [Heading("Every row"), Grid(heads, tuple(lines), note, labels=3)]
    several = [row for row in rows if len(row.get("domain_accuracy") or {}) > 1]
    if several:
        domains = tuple(dict.fromkeys(name for row in several for name in row["domain_accuracy"]))
        cells = []
        for row in several:
            shares = (_percent(row["domain_accuracy"].get(name)) for name in domains)
            cells.append((f"{row['run']}: {row['test']}", *shares))
        parts.append(Grid(("run: test", *domains), tuple(cells), "Accuracy in percent by domain."))
    return parts


def commands(runs: Sequence[Found]) -> list[Part]:
    """What to type to get the numbers again, and what they were made from."""
    typed = dict.fromkeys(run.command for run in runs if run.command)
    rows = [row for run in runs for row in run.results]
    hashes = _all(row.split_hash for row in rows if row.split_hash)
    versions = _all(row.version for row in rows if row.version)
    facts = [f"Split hash: {hashes}."] if hashes else []
    facts += [f"clipalign {versions}."] if versions else []
    parts: list[Part] = [Heading("Commands"), Code("\n".join(typed))]
    return [*parts, Paragraph(" ".join(facts))] if facts else parts


def caveats(rows: Sequence[Row]) -> list[Part]:
    """What the numbers do not show."""
    texts = []
    if any(is_pocket(str(row["backbone"])) for row in rows):
        texts.append(POCKET)
    if any(row["steps"] for row in rows) and len({row["seed"] for row in rows}) == 1:
        texts.append(ONE_SEED)
    boxes = [Paragraph(text, caveat=True) for text in texts]
    return [Heading("Before you quote a number"), *boxes] if boxes else []


def _task(protocol: str | None, target: str | None) -> str:
    return (protocol or "each domain") + (f", target {target}" if target else "")


def _all(values: Any) -> str:
    return ", ".join(dict.fromkeys(map(str, values)))


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"
