"""Tables of any metrics: a line per test set and method, a column per metric."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace

from ..evaluation.metrics import (
    ClassificationMetric,
    EpisodeMetric,
    Field,
    arrange,
    measured_fields,
    metric_groups,
)
from .document import Heading, Paragraph, Part, Results
from .notes import shared_notes, span
from .result_table import Cell, ResultTable, TableLine, sampling_variance
from .rows import ReportRow, by_task, is_retrieval, label_rows, order_labels

CLASSIFICATION = (ClassificationMetric, EpisodeMetric)
OWN_TABLE = ("accuracy", "h")  # fields of the tables of accuracies


def metric_tables(rows: Iterable[ReportRow]) -> list[ResultTable]:
    """Return tables of the metrics of classification that are not in the tables of accuracies, one per task."""
    groups = by_task(row for row in rows if not is_retrieval(row))
    tables = []
    for task, group in groups.items():
        fields = [
            field
            for field in measured_fields((row.result for row in group), CLASSIFICATION)
            if field.table and field.name not in OWN_TABLE
        ]
        if fields:
            tables.append(metric_table(f"{task.title}: further metrics", group, fields))
    return tables


def metric_section(tables: Sequence[ResultTable]) -> list[Part]:
    """Return the section of tables of further metrics."""
    return [Heading("Further metrics"), *(Results(table) for table in tables)] if tables else []


def beyond_tables(rows: Iterable[ReportRow]) -> list[ResultTable]:
    """Return tables of the metrics of `--metrics`, one per task and group."""
    tables = []
    for task, group in by_task(row for row in rows if not is_retrieval(row)).items():
        for name, metric in metric_groups().items():
            fields = [
                replace(field, title=f"{field.title} {field.arrow}".rstrip())
                for field in metric.fields
                if field.table
                and not field.by
                and any(row.result.value(field.name) is not None for row in group)
            ]
            if fields:
                tables.append(metric_table(f"{task.title}: {name}", group, fields))
    return tables


def beyond_section(tables: Sequence[ResultTable]) -> list[Part]:
    """Return the section of the metrics of `--metrics`."""
    note = "↑: higher is better; ↓: lower is better. Every metric is defined in docs/measures.md."
    return (
        [Heading("Beyond accuracy"), Paragraph(note), *(Results(table) for table in tables)] if tables else []
    )


def metric_table(title: str, rows: Sequence[ReportRow], fields: Sequence[Field]) -> ResultTable:
    """Return means over seeds, with a line per test set, variant of the fields, and method."""
    labelled = label_rows(rows)
    labels = order_labels(label for label, _ in labelled)
    heads, variants = arrange(fields)
    lines: list[TableLine] = []
    used: list[Field] = []
    for place in dict.fromkeys(row.place for row in rows):
        for variant, by_head in variants.items():
            for label in labels:
                mine = [row for name, row in labelled if name == label and row.place == place]
                cells = tuple(_cell(mine, by_head.get(head)) for head in heads)
                seeds = [cell.seeds for cell in cells if cell is not None]
                if seeds:
                    test = ", ".join(filter(None, (*place, variant)))
                    lines.append(TableLine((test, label), cells, span(seeds)))
                    used += by_head.values()
    units = {field.title: field.unit for field in fields}
    columns = tuple(head if units[head] in ("%", "") else f"{head} ({units[head]})" for head in heads)
    table = ResultTable(title, ("test", "method"), columns, tuple(lines))
    return replace(table, notes=_notes(rows, table, used))


def _cell(rows: Sequence[ReportRow], field: Field | None) -> Cell | None:
    if field is None:
        return None
    values = [value for row in rows if (value := row.result.value(field.name)) is not None]
    if not values:
        return None
    mean = statistics.fmean(values)
    # Recall in either direction is limited by the images, of which there are no more than captions.
    images = min(row.result.n for row in rows)
    share = field.unit == "%" and 0 <= mean <= 1
    cell = Cell.of(values, sampling_variance(mean, images) if share else 0.0)
    return replace(cell, unit=field.unit, digits=field.digits, higher_is_better=field.higher_is_better)


def _notes(rows: Sequence[ReportRow], table: ResultTable, fields: Sequence[Field]) -> tuple[str, ...]:
    notes = list(dict.fromkeys(field.note for field in fields if field.note))
    if any(field.unit == "%" for field in fields) and not any("percent" in note for note in notes):
        notes.insert(0, "In percent.")
    sizes = []
    for place in dict.fromkeys(row.place for row in rows):
        results = [row.result for row in rows if row.place == place]
        texts = [int(count) for row in results if (count := row.value("texts")) is not None]
        cut = [int(count) for row in results if (count := row.value("cut"))]
        size = f"{', '.join(filter(None, place))} {span([row.n for row in results])} images"
        size += f" and {span(texts)} texts" if texts else ""
        sizes.append(size + (f" ({span(cut)} of them truncated to the text window)" if cut else ""))
    notes.append(f"Test sets: {'; '.join(sizes)}.")
    notes += shared_notes(rows, table, unscored="Not scored", group="test")
    return tuple(notes)
