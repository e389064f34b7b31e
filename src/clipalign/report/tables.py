"""All tables of a report."""

from __future__ import annotations

from collections.abc import Iterable

from .accuracy import accuracy_tables
from .metric_table import beyond_tables, metric_tables
from .result_table import ResultTable
from .retrieval import recall_tables
from .rows import ReportRow


def all_tables(rows: Iterable[ReportRow]) -> list[ResultTable]:
    """Return the tables of accuracies, of further metrics, of those of `--metrics`, and of recalls."""
    kept = list(rows)
    return [*accuracy_tables(kept), *metric_tables(kept), *beyond_tables(kept), *recall_tables(kept)]
