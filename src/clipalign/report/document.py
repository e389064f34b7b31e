"""A report as a list of parts, independent of the output format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from .result_table import ResultTable


@dataclass(frozen=True)
class Heading:
    """Heading of a section."""

    kind: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True)
class Paragraph:
    """Plain text; a caveat is highlighted."""

    kind: ClassVar[str] = "paragraph"
    text: str
    caveat: bool = False


@dataclass(frozen=True)
class Bullets:
    """List of plain texts."""

    kind: ClassVar[str] = "bullets"
    items: tuple[str, ...]


@dataclass(frozen=True)
class Code:
    """Command lines."""

    kind: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True)
class Results:
    """Table of results with its title and notes."""

    kind: ClassVar[str] = "results"
    table: ResultTable


@dataclass(frozen=True)
class Grid:
    """Table of texts.

    Attributes:
        heads: one per column.
        lines: cells, one per column.
        note: text below the table.
        labels: number of leading columns that hold names rather than numbers.
        title: heading above the table.
        bold: (line, column) of the cells printed in bold.
    """

    kind: ClassVar[str] = "grid"
    heads: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    note: str = ""
    labels: int = 1
    title: str = ""
    bold: frozenset[tuple[int, int]] = frozenset()


@dataclass(frozen=True)
class Picture:
    """PNG file with alternative text and caption."""

    kind: ClassVar[str] = "picture"
    path: Path
    alt: str
    caption: str


Part = Heading | Paragraph | Bullets | Code | Results | Grid | Picture
