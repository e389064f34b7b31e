"""Sentences below a table: units, number of images, seeds, recipes and the meaning of bold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .result_table import ResultTable
from .rows import ReportRow


def accuracy_notes(rows: Sequence[ReportRow], table: ResultTable) -> tuple[str, ...]:
    """Return the notes of a table of accuracies."""
    sizes: dict[str, list[int]] = {}
    classes: dict[str, list[int]] = {}
    for row in rows:
        result = row.result
        column = str(result.target) if table.columns[-1] == "mean" else result.test
        sizes.setdefault(column, []).append(result.n)
        if result.classes is not None:
            classes.setdefault(column, []).append(result.classes)
    notes = ["Top-1 accuracy in percent.", f"Test images: {_listed(sizes)}."]
    if len({tuple(sorted(set(counts))) for counts in classes.values()}) == 1:
        notes.append(f"Each image is classified among {span(next(iter(classes.values())))} class names.")
    elif classes:
        notes.append(f"Class names per test set: {_listed(classes)}.")
    if "h" in table.columns:
        notes.append("h is the harmonic mean of base and new.")
    notes += shared_notes(rows, table, unscored="–: not scored", group="target")
    return tuple(notes)


def shared_notes(
    rows: Sequence[ReportRow], table: ResultTable, *, unscored: str, group: str
) -> Iterator[str]:
    """Yield the notes that all tables share: seeds, splits, unscored test sets, bold.

    Args:
        rows: rows of the table.
        table: the table.
        unscored: beginning of the sentence about test sets that a method cannot score.
        group: the lines within which the best mean is bold, such as "target".
    """
    cells = [cell for line in table.lines for cell in line.cells if cell is not None]
    if any(cell.std is not None for cell in cells):
        yield "± is the standard deviation over seeds."
    if any(cell.std is None for cell in cells):
        yield "A value without ± is a single run."
    yield from recipe_note(rows)
    if any(" (split " in line.labels[-1] or ", split " in line.labels[-1] for line in table.lines):
        yield "Lines with different splits are not comparable."
    reasons = dict.fromkeys((row.result.method, row.result.reason) for row in rows if row.result.reason)
    for method, reason in reasons:
        yield f"{unscored}, {method}: {reason}."
    if any(table.best(line, i) for line in table.lines for i in range(len(table.columns))):
        yield (
            f"Bold: the highest mean per {group} and column, if it exceeds all others by more than two standard "
            "errors, over seeds and images."
        )


def recipe_note(rows: Sequence[ReportRow]) -> Iterator[str]:
    """Yield a note with the recipe of the trained rows, and the options that do not follow it."""
    methods: dict[str, list[str]] = {}
    for row in rows:
        result = row.result
        if result.recipe is not None and result.steps > 0:
            changes = f" except {result.recipe_changes}" if result.recipe_changes else ""
            methods.setdefault(result.recipe + changes, []).append(result.method)
    if len(methods) == 1:
        yield f"Recipe: {next(iter(methods))}."
    elif methods:
        listed = (f"{', '.join(dict.fromkeys(names))}: {recipe}" for recipe, names in methods.items())
        yield f"Recipes: {'; '.join(listed)}."


def span(values: Sequence[int]) -> str:
    """Format the range of counts.

    >>> span([3, 3]), span([5, 3])
    ('3', '3 to 5')
    """
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"


def _listed(counts: dict[str, list[int]]) -> str:
    return ", ".join(f"{name} {span(values)}" for name, values in counts.items())
