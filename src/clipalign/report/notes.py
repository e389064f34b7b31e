"""What the reader of a table has to know, in sentences below it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .table import Row, Table


def accuracy_notes(rows: Sequence[Row], table: Table) -> tuple[str, ...]:
    """Of a table of accuracies."""
    notes = ["Accuracy in percent (top-1)."]
    sizes: dict[str, list[int]] = {}
    spaces: dict[str, list[int]] = {}
    for row in rows:
        across = str(row.get("target")) if table.columns[-1] == "mean" else str(row["test"])
        sizes.setdefault(across, []).append(int(row["n"]))
        if row.get("classes") is not None:
            spaces.setdefault(across, []).append(int(row["classes"]))
    notes.append("Images scored: " + ", ".join(f"{k} {ranged(v)}" for k, v in sizes.items()) + ".")
    if spaces:
        distinct = {tuple(sorted(set(v))) for v in spaces.values()}
        if len(distinct) == 1:
            notes.append(f"Each image is scored among {ranged(next(iter(spaces.values())))} class names.")
        else:
            parts = ", ".join(f"{k} {ranged(v)}" for k, v in spaces.items())
            notes.append(f"Class names to choose from: {parts}.")
    if "h" in table.columns:
        notes.append("h is the harmonic mean of base and new.")
    notes += shared_notes(rows, table, unscored="–: not scored", among="target")
    return tuple(notes)


def shared_notes(rows: Sequence[Row], table: Table, *, unscored: str, among: str) -> Iterator[str]:
    """Of any table: seeds, splits, what was not scored, what bold says.

    Args:
        rows: behind the table.
        table: its lines.
        unscored: how the sentence about what was not scored begins.
        among: what the highest mean of each column is marked for.
    """
    cells = [cell for line in table.lines for cell in line.cells if cell is not None]
    if any(cell.std is not None for cell in cells):
        yield "± is the standard deviation over seeds."
    if any(cell.seeds == 1 and cell.std is None for cell in cells):
        yield "A value without ± is one run."
    if any(" (split " in line.labels[-1] or ", split " in line.labels[-1] for line in table.lines):
        yield "Lines with different splits are kept apart: their numbers are not comparable."
    for method, reason in dict.fromkeys((row["method"], row["reason"]) for row in rows if row.get("reason")):
        yield f"{unscored}, {method}: {reason}."
    if len(table.lines) > 1:
        yield f"Bold: the highest mean of a {among}'s column."


def ranged(values: Sequence[int]) -> str:
    """ "3", or "3 to 5"."""
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low} to {high}"
