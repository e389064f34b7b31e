"""Rows of retrieval -> tables of recalls, and published recalls beside them; never in one table with accuracies."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..runs.results import DIRECTIONS, RECALL_AT, recall_field
from .document import Accuracies, Grid, Heading, Part
from .notes import ranged, shared_notes
from .published import read_numbers
from .table import Cell, Line, Row, Table
from .tables import is_retrieval, label_rows, make_tables, order_labels

FILE = Path(__file__).resolve().parents[1] / "assets" / "published_retrieval.csv"
SHORT = dict(zip(DIRECTIONS, ("T2I", "I2T"), strict=True))
COLUMNS = {recall_field(way, k): f"{SHORT[way]} R@{k}" for way in DIRECTIONS for k in RECALL_AT}
# Prefix of a row's fields -> what is added to the name of the test.
KINDS = {"": "", "relevant_": ", any relevant", "masked_": ", masked"}
NOTES = {
    "": "Recall in percent: T2I, texts whose image is among the k best images; I2T, images of which at least one own "
    "text is among the k best texts. A hit that ties decide counts half.",
    "relevant_": "Any relevant: every image that a text is true of counts as right, not only the one it was written "
    "for.",
    "masked_": "Masked: images are scored in the dimensions that each text's mask keeps (not the published "
    "evaluation of SmartCLIP, which drops the masks).",
}


def recall_tables(rows: Iterable[Row]) -> list[Table]:
    """One table per data set and backbone: a line per test, kind of recall and method.

    Args:
        rows: as for `make_tables`; those that are not of retrieval are left out.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if is_retrieval(row):
            groups.setdefault((str(row.get("data")), str(row.get("backbone"))), []).append(row)
    return [_table(f"{data}, retrieval, {backbone}", group) for (data, backbone), group in groups.items()]


def all_tables(rows: Iterable[Row]) -> list[Table]:
    """Tables of accuracies, then tables of recalls."""
    kept = list(rows)
    return [*make_tables(kept), *recall_tables(kept)]


def _table(title: str, rows: list[Row]) -> Table:
    labelled = label_rows(rows)
    labels = order_labels(label for label, _ in labelled)
    lines, kinds = [], []
    for test in dict.fromkeys(str(row["test"]) for row in rows):
        for prefix, added in KINDS.items():
            for label in labels:
                mine = [row for name, row in labelled if name == label and row["test"] == test]
                cells = tuple(_cell(mine, f"{prefix}{field}") for field in COLUMNS)
                seeds = [cell.seeds for cell in cells if cell is not None]
                if seeds:
                    lines.append(Line((f"{test}{added}", label), cells, ranged(seeds)))
                    kinds.append(prefix)
    table = Table(title, ("test", "method"), tuple(COLUMNS.values()), tuple(lines))
    return Table(title, table.heads, table.columns, table.lines, _notes(rows, table, dict.fromkeys(kinds)))


def _cell(rows: Iterable[Row], field: str) -> Cell | None:
    values = [float(row[field]) for row in rows if row.get(field) is not None]
    return Cell.of(values) if values else None


def _notes(rows: list[Row], table: Table, kinds: Iterable[str]) -> tuple[str, ...]:
    notes = [NOTES[kind] for kind in NOTES if kind in set(kinds)]
    sizes = []
    for test in dict.fromkeys(str(row["test"]) for row in rows):
        mine = [row for row in rows if row["test"] == test]
        texts = [int(row["texts"]) for row in mine if row.get("texts") is not None]
        cut = [int(row["cut"]) for row in mine if row.get("cut")]
        size = f"{test} {ranged([int(row['n']) for row in mine])} images"
        size += f" and {ranged(texts)} texts" if texts else ""
        sizes.append(size + (f" ({ranged(cut)} of them longer than the window, and cut)" if cut else ""))
    notes.append(f"Scored: {'; '.join(sizes)}.")
    notes += shared_notes(rows, table, unscored="Not scored", among="test")
    return tuple(notes)


def recall_parts(tables: Sequence[Table]) -> list[Part]:
    """The section of the tables; nothing without any."""
    return [Heading("Retrieval"), *(Accuracies(table) for table in tables)] if tables else []


def every_recall(rows: Sequence[Row]) -> list[Part]:
    """Recalls of every row, one line per kind."""
    lines = []
    for row in filter(is_retrieval, rows):
        for prefix, added in KINDS.items():
            shares = [row.get(f"{prefix}{field}") for field in COLUMNS]
            if any(share is not None for share in shares):
                place = (row.get("run", ""), f"{row['test']}{added}", row["seed"], row["steps"], row["n"])
                shown = ("" if share is None else f"{100 * share:.1f}" for share in shares)
                lines.append((*map(str, place), str(row.get("texts", "")), *shown))
    heads = ("run", "test", "seed", "steps", "images", "texts", *COLUMNS.values())
    note = "In percent."
    return [Heading("Every row of retrieval"), Grid(heads, tuple(lines), note, labels=2)] if lines else []


@dataclass(frozen=True)
class PublishedRecall:
    """A number of a paper, in percent as printed.

    Attributes:
        source: where it is printed. data, test, method: as in a result row. backbone: of the paper.
        recall: the field of a result row. note: what one has to know to compare.
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
def published_recalls() -> tuple[PublishedRecall, ...]:
    """All recalls that ship with the package."""
    return read_numbers(FILE, PublishedRecall)


def recalls_beside(rows: Sequence[Row]) -> list[Part]:
    """Measured means over seeds, and what was published for the same data, test, method and recall.

    Returns:
        Nothing where no row has a published counterpart.
    """
    measured: dict[tuple[str, ...], list[float]] = {}
    for row in filter(is_retrieval, rows):
        who = tuple(str(row[name]) for name in ("data", "test", "method", "backbone"))
        for field in COLUMNS:
            if row.get(field) is not None:
                measured.setdefault((*who, field), []).append(float(row[field]))
    lines = []
    for (data, test, method, backbone, field), values in measured.items():
        for number in published_recalls():
            if (number.data, number.test, number.method, number.recall) == (data, test, method, field):
                ours = f"{100 * statistics.fmean(values):.1f}"
                source = number.source + (f"; {number.note}" if number.note else "")
                place = (data, COLUMNS[field], method, backbone)
                lines.append((*place, ours, number.percent, number.backbone, source))
    if not lines:
        return []
    note = (
        "In percent. Published: as printed, never mixed with what was measured here. Compare only where backbone, "
        "training, length of the text window and images are the same."
    )
    heads = ("data", "recall", "method", "backbone", "measured", "published", "published backbone", "source")
    return [Heading("Published recalls"), Grid(heads, tuple(lines), note, labels=4)]
