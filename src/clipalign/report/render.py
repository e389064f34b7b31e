"""A table as Markdown, HTML, CSV, or on a terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from html import escape

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from .table import Cell, Table

NOT_MEASURED = "–"
LABEL = 9  # characters that a label keeps on a narrow terminal


def _cell(cell: Cell | None) -> str:
    return NOT_MEASURED if cell is None else str(cell)


def to_markdown(table: Table) -> str:
    """A pipe table with its notes below."""
    heads = [*table.heads, *table.columns, "seeds"]
    lines = [_pipes(heads), _pipes(["---"] * len(table.heads) + ["--:"] * (len(table.columns) + 1))]
    for line in table.lines:
        cells = [
            f"**{_cell(cell)}**" if table.best(line, i) else _cell(cell) for i, cell in enumerate(line.cells)
        ]
        lines.append(_pipes([*line.labels, *cells, line.seeds]))
    return "\n".join(lines) + "\n\n" + " ".join(table.notes) + "\n"


def _pipes(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def to_html(table: Table) -> str:
    """A `<table>` with its notes below; its classes `best` and `first` (of a target) are for the style."""
    heads = "".join(f"<th>{escape(head)}</th>" for head in table.heads)
    columns = "".join(f'<th class="number">{escape(c)}</th>' for c in (*table.columns, "seeds"))
    body, previous = [], None
    for line in table.lines:
        # The first label repeats for each method of a target: print it once.
        shown = [
            "" if len(line.labels) > 1 and i == 0 and label == previous else label
            for i, label in enumerate(line.labels)
        ]
        starts = len(line.labels) > 1 and line.labels[0] != previous
        previous = line.labels[0]
        labels = "".join(f"<th>{escape(label)}</th>" for label in shown)
        cells = "".join(
            f'<td class="number{" best" if table.best(line, i) else ""}">{escape(_cell(cell))}</td>'
            for i, cell in enumerate(line.cells)
        )
        style = ' class="first"' if starts else ""
        body.append(f'<tr{style}>{labels}{cells}<td class="number">{escape(line.seeds)}</td></tr>')
    rows = "\n".join(body)
    return (
        f'<div class="wide"><table>\n<thead><tr>{heads}{columns}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n'
        f'</table></div>\n<p class="note">{escape(" ".join(table.notes))}</p>\n'
    )


def to_csv(tables: Sequence[Table]) -> str:
    """One line per cell, in percent: table, line, column, mean, std, seeds."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["table", "target", "method", "column", "mean_percent", "std_percent", "seeds"])
    for table in tables:
        for line in table.lines:
            target = line.labels[0] if len(line.labels) > 1 else ""
            for column, cell in zip(table.columns, line.cells, strict=True):
                if cell is not None:
                    std = "" if cell.std is None else f"{100 * cell.std:.4f}"
                    writer.writerow(
                        [
                            table.title,
                            target,
                            line.labels[-1],
                            column,
                            f"{100 * cell.mean:.4f}",
                            std,
                            cell.seeds,
                        ]
                    )
    return out.getvalue()


def print_tables(tables: Sequence[Table], console: Console | None = None) -> None:
    """Show tables on a terminal; without one, the same as plain text."""
    console = console or Console()
    for table in tables:
        shown = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for head in table.heads:
            shown.add_column(head, overflow="fold", min_width=LABEL)
        for i, column in enumerate(table.columns):
            # Labels give way before numbers do: half a number is worse than a broken word.
            width = max([len(column), *(len(_cell(line.cells[i])) for line in table.lines)])
            shown.add_column(column, justify="right", no_wrap=True, min_width=width)
        shown.add_column("seeds", justify="right", no_wrap=True, min_width=5)
        previous = None
        for line in table.lines:
            if len(line.labels) > 1 and previous not in (None, line.labels[0]):
                shown.add_section()
            previous = line.labels[0]
            cells = [
                Text(_cell(cell), style="bold" if table.best(line, i) else "")
                for i, cell in enumerate(line.cells)
            ]
            shown.add_row(*(Text(label) for label in line.labels), *cells, line.seeds)
        console.print(Text(table.title, style="bold"))
        wide = console.options.update(max_width=1000)
        needed = console.measure(shown, options=wide).minimum
        if needed > console.width:  # lines that go on are read, labels squeezed to nothing are not
            shown.width = needed
        console.print(shown, crop=False)
        console.print(Text(" ".join(table.notes), style="dim"))
