"""A table of results as CSV, or on a terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from .result_table import Cell, ResultTable

NOT_MEASURED = "–"
LABEL_WIDTH = 9  # characters of a label that are kept on a narrow terminal
CSV_DIGITS = 4  # decimals, or more if the metric prints more
CSV_HEADS = ("table", "target", "method", "column", "mean", "std", "unit", "seeds")


def cell_text(cell: Cell | None) -> str:
    """Format a cell in its unit, or a dash if it was not measured."""
    return NOT_MEASURED if cell is None else str(cell)


def tables_csv(tables: Sequence[ResultTable]) -> str:
    """Return tables as CSV, one line per measured cell, with the unit that mean and std are in."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_HEADS)
    for table in tables:
        for line in table.lines:
            target = line.labels[0] if len(line.labels) > 1 else ""
            for column, cell in zip(table.columns, line.cells, strict=True):
                if cell is not None:
                    digits = max(CSV_DIGITS, cell.digits)
                    std = "" if cell.std is None else f"{cell.scale * cell.std:.{digits}f}"
                    numbers = (f"{cell.scale * cell.mean:.{digits}f}", std, cell.unit, cell.seeds)
                    writer.writerow((table.title, target, line.labels[-1], column, *numbers))
    return out.getvalue()


def print_tables(tables: Sequence[ResultTable], console: Console | None = None) -> None:
    """Print tables with their notes on a terminal, or as plain text if the output is not one."""
    console = console or Console()
    for table in tables:
        printed = _rich_table(table)
        console.print(Text(table.title, style="bold"))
        needed = console.measure(printed, options=console.options.update(max_width=1000)).minimum
        if needed > console.width:  # wrapped lines can be read, labels of no width cannot
            printed.width = needed
        console.print(printed, crop=False)
        console.print(Text(" ".join(table.notes), style="dim"))


def _rich_table(table: ResultTable) -> RichTable:
    printed = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for head in table.heads:
        printed.add_column(head, overflow="fold", min_width=LABEL_WIDTH)
    for i, column in enumerate(table.columns):
        # On a narrow terminal labels are folded before numbers are cut.
        width = max([len(column), *(len(cell_text(line.cells[i])) for line in table.lines)])
        printed.add_column(column, justify="right", no_wrap=True, min_width=width)
    printed.add_column("seeds", justify="right", no_wrap=True, min_width=5)
    for number, line in enumerate(table.lines):
        if number and table.starts_group(number):
            printed.add_section()
        cells = [
            Text(cell_text(cell), style="bold" if table.best(line, i) else "")
            for i, cell in enumerate(line.cells)
        ]
        printed.add_row(*(Text(label) for label in line.labels), *cells, line.seeds)
    return printed
