"""Tables of recalls. Recalls and accuracies never share a table."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace

from ..runs.results import DIRECTIONS, RECALL_AT, recall_field
from .document import Grid, Heading, Part, Results
from .notes import shared_notes, span
from .result_table import Cell, ResultTable, TableLine, sampling_variance
from .rows import ReportRow, by_task, is_retrieval, label_rows, order_labels

SHORT = dict(zip(DIRECTIONS, ("T2I", "I2T"), strict=True))
COLUMNS = {recall_field(way, k): f"{SHORT[way]} R@{k}" for way in DIRECTIONS for k in RECALL_AT}
# Prefix of a recall's field -> suffix of the test's name.
KINDS = {"": "", "relevant_": ", any relevant", "masked_": ", masked"}
NOTES = {
    "": "Recall in percent. T2I: texts whose image is among the k best images. I2T: images with at least one of their "
    "texts among the k best texts. A hit that ties decide counts half.",
    "relevant_": "Any relevant: every image that matches a text counts as correct, not only the one it was written "
    "for.",
    "masked_": "Masked: images are scored in the dimensions that each text's mask keeps (unlike the published "
    "evaluation of SmartCLIP, which drops the masks).",
}


def recall_tables(rows: Iterable[ReportRow]) -> list[ResultTable]:
    """Return one table per data set and backbone: a line per test, kind of recall and method.

    Rows of other protocols are skipped.
    """
    groups = by_task(row for row in rows if is_retrieval(row))
    return [_table(task.title, group) for task, group in groups.items()]


def _table(title: str, rows: list[ReportRow]) -> ResultTable:
    labelled = label_rows(rows)
    labels = order_labels(label for label, _ in labelled)
    lines, kinds = [], set()
    for test in dict.fromkeys(row.result.test for row in rows):
        for prefix, suffix in KINDS.items():
            for label in labels:
                mine = [row for name, row in labelled if name == label and row.result.test == test]
                cells = tuple(_cell(mine, f"{prefix}{name}") for name in COLUMNS)
                seeds = [cell.seeds for cell in cells if cell is not None]
                if seeds:
                    lines.append(TableLine((f"{test}{suffix}", label), cells, span(seeds)))
                    kinds.add(prefix)
    table = ResultTable(title, ("test", "method"), tuple(COLUMNS.values()), tuple(lines))
    return replace(table, notes=_notes(rows, table, kinds))


def _cell(rows: Sequence[ReportRow], name: str) -> Cell | None:
    values = [value for row in rows if (value := row.result.value(name)) is not None]
    if not values:
        return None
    # Recall in either direction is limited by the images, of which there are no more than texts.
    images = min(row.result.n for row in rows)
    return Cell.of(values, sampling_variance(statistics.fmean(values), images))


def _notes(rows: list[ReportRow], table: ResultTable, kinds: set[str]) -> tuple[str, ...]:
    notes = [text for kind, text in NOTES.items() if kind in kinds]
    sizes = []
    for test in dict.fromkeys(row.result.test for row in rows):
        results = [row.result for row in rows if row.result.test == test]
        texts = [int(count) for row in results if (count := row.value("texts")) is not None]
        cut = [int(count) for row in results if (count := row.value("cut"))]
        size = f"{test} {span([row.n for row in results])} images"
        size += f" and {span(texts)} texts" if texts else ""
        sizes.append(size + (f" ({span(cut)} of them truncated to the text window)" if cut else ""))
    notes.append(f"Test sets: {'; '.join(sizes)}.")
    notes += shared_notes(rows, table, unscored="Not scored", group="test")
    return tuple(notes)


def recall_section(tables: Sequence[ResultTable]) -> list[Part]:
    """Return the section of tables of recalls."""
    return [Heading("Retrieval"), *(Results(table) for table in tables)] if tables else []


def recall_rows_section(rows: Sequence[ReportRow]) -> list[Part]:
    """Return the section with the recalls of every row, one line per kind of recall."""
    lines = []
    for row in filter(is_retrieval, rows):
        result = row.result
        for prefix, suffix in KINDS.items():
            recalls = [result.value(f"{prefix}{name}") for name in COLUMNS]
            if any(recall is not None for recall in recalls):
                facts = (row.run, f"{result.test}{suffix}", result.seed, result.steps, result.n)
                numbers = ("" if recall is None else f"{100 * recall:.1f}" for recall in recalls)
                lines.append((*map(str, facts), str(result.extra.get("texts", "")), *numbers))
    heads = ("run", "test", "seed", "steps", "images", "texts", *COLUMNS.values())
    grid = Grid(heads, tuple(lines), "In percent.", labels=2)
    return [Heading("Every row of retrieval"), grid] if lines else []
