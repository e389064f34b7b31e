"""Tables of retrieval metrics. Recalls and accuracies never share a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..evaluation.metrics import RetrievalMetric, arrange, measured_fields, row_cells
from .document import Grid, Heading, Part, Results
from .metric_table import metric_table
from .result_table import ResultTable
from .rows import ReportRow, by_task, is_retrieval


def recall_tables(rows: Iterable[ReportRow]) -> list[ResultTable]:
    """Return one table per data set and backbone: a line per test set, kind of recall and method.

    Rows of other protocols are skipped.
    """
    groups = by_task(row for row in rows if is_retrieval(row))
    tables = []
    for task, group in groups.items():
        fields = measured_fields((row.result for row in group), (RetrievalMetric,))
        tables.append(metric_table(task.title, group, [field for field in fields if field.table]))
    return tables


def recall_section(tables: Sequence[ResultTable]) -> list[Part]:
    """Return the section of tables of recalls."""
    return [Heading("Retrieval"), *(Results(table) for table in tables)] if tables else []


def recall_rows_section(rows: Sequence[ReportRow]) -> list[Part]:
    """Return the section with the values of every row, one line per kind of recall."""
    rows = [row for row in rows if is_retrieval(row)]
    if not rows:
        return []
    fields = measured_fields(row.result for row in rows)
    lines = []
    for row in rows:
        result = row.result
        for variant, cells in row_cells(result, fields):
            test = f"{result.test}, {variant}" if variant else result.test
            facts = (row.run, test, result.seed, result.steps, result.n, result.extra.get("texts", ""))
            lines.append((*map(str, facts), *cells))
    heads = ("run", "test", "seed", "steps", "images", "texts", *arrange(fields)[0])
    return [Heading("Every row of retrieval"), Grid(heads, tuple(lines), "Recalls in percent.", labels=2)]
