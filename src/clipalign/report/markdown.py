"""A report as Markdown with linked picture files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from .document import Bullets, Code, Grid, Heading, Paragraph, Part, Results
from .render import cell_text
from .result_table import ResultTable


def to_markdown(title: str, parts: Sequence[Part], folder: Path) -> str:
    """Return a report as Markdown.

    Args:
        title: first heading.
        parts: content.
        folder: folder of the file, from which pictures are linked.
    """
    return "\n".join([f"# {title}\n", *(_part(part, folder) for part in parts)])


def _part(part: Part, folder: Path) -> str:
    match part:
        case Heading():
            return f"## {part.text}\n"
        case Paragraph():
            return f"> {part.text}\n" if part.caveat else f"{part.text}\n"
        case Bullets():
            return "".join(f"- {item}\n" for item in part.items)
        case Code():
            return f"```\n{part.text}\n```\n"
        case Results():
            return f"### {part.table.title}\n\n{table_markdown(part.table)}"
        case Grid():
            return _grid(part)
    link = Path(os.path.relpath(part.path, folder)).as_posix()
    return f"![{part.alt}]({link})\n\n{part.caption}\n"


def table_markdown(table: ResultTable) -> str:
    """Return a table of results as a pipe table, its notes below; the best cells are bold."""
    lines = []
    for line in table.lines:
        cells = [
            f"**{cell_text(cell)}**" if table.best(line, i) else cell_text(cell)
            for i, cell in enumerate(line.cells)
        ]
        lines.append((*line.labels, *cells, line.seeds))
    heads = (*table.heads, *table.columns, "seeds")
    return pipe_table(heads, lines, len(table.heads)) + "\n\n" + " ".join(table.notes) + "\n"


def _grid(grid: Grid) -> str:
    title = f"### {grid.title}\n\n" if grid.title else ""
    note = f"\n{grid.note}\n" if grid.note else ""
    lines = [
        [f"**{text}**" if (i, j) in grid.bold else text for j, text in enumerate(line)]
        for i, line in enumerate(grid.lines)
    ]
    return title + pipe_table(grid.heads, lines, grid.labels) + "\n" + note


def pipe_table(heads: Sequence[str], lines: Sequence[Sequence[str]], labels: int = 1) -> str:
    """Return a Markdown table.

    Args:
        heads: one per column.
        lines: cells, one per column.
        labels: number of leading columns that are aligned to the left; the others hold numbers.

    >>> print(pipe_table(["method", "step"], [["erm", "2 ms"]]))
    | method | step |
    | --- | --: |
    | erm | 2 ms |
    """
    rule = ["---" if i < labels else "--:" for i in range(len(heads))]
    return "\n".join(map(_pipes, (heads, rule, *lines)))


def _pipes(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
