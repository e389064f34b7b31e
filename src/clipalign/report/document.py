"""A report as a list of blocks, written as Markdown with picture files, or as one HTML file."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from .render import to_html, to_markdown
from .table import Table

# Readable on light and dark screens, and printed; nothing is loaded from elsewhere.
STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --soft: #5c5c5c; --line: #d8d8d8; --ground: #ffffff;
  --shade: #f5f5f3; --strong: #0b5c9e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e6; --soft: #a5a5a2; --line: #3a3a3a;
  --ground: #161616; --shade: #222222; --strong: #7db8ee; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 60rem;
  background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.75rem; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.75rem 0 .5rem; }
p, ul { margin: 0 0 .9rem; } ul { padding-left: 1.25rem; }
.note, figcaption { color: var(--soft); font-size: .875rem; }
.wide { overflow-x: auto; margin: 0 0 .5rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .925rem; }
th, td { padding: .2rem .8rem; text-align: left; white-space: nowrap; }
thead th { border-bottom: 2px solid var(--line); color: var(--soft); font-weight: 600; }
tbody th { font-weight: 500; } tbody tr.first > * { border-top: 1px solid var(--line); }
.number { text-align: right; } td.best { font-weight: 700; color: var(--strong); }
pre { background: var(--shade); border: 1px solid var(--line); border-radius: 6px; padding: .75rem 1rem;
  white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85rem; line-height: 1.5; }
code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
figure { margin: 1rem 0 1.5rem; }
figure img { display: block; width: 100%; height: auto; background: #fff; border: 1px solid var(--line);
  border-radius: 6px; padding: .5rem; }
figcaption { margin-top: .5rem; }
.caveat { background: var(--shade); border-left: 4px solid var(--line); padding: .75rem 1rem;
  border-radius: 0 6px 6px 0; }
"""


@dataclass(frozen=True)
class Heading:
    """A section begins."""

    text: str


@dataclass(frozen=True)
class Paragraph:
    """Plain text; a caveat stands out."""

    text: str
    caveat: bool = False


@dataclass(frozen=True)
class Bullets:
    """A list of plain texts."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Code:
    """Text to be typed."""

    text: str


@dataclass(frozen=True)
class Accuracies:
    """A table of results under its title."""

    table: Table


@dataclass(frozen=True)
class Grid:
    """A table of texts: `labels` columns of names, then numbers."""

    heads: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    note: str = ""
    labels: int = 1


@dataclass(frozen=True)
class Picture:
    """A PNG file, what stands for it where it cannot be seen, and what is below it."""

    path: Path
    alt: str
    caption: str


Part = Heading | Paragraph | Bullets | Code | Accuracies | Grid | Picture


def markdown(title: str, parts: Sequence[Part], folder: Path) -> str:
    """The document as Markdown.

    Args:
        title: first heading.
        parts: what follows.
        folder: where the text will lie; pictures are linked from there.
    """
    return "\n".join([f"# {title}\n", *(_markdown(part, folder) for part in parts)])


def _markdown(part: Part, folder: Path) -> str:
    if isinstance(part, Heading):
        return f"## {part.text}\n"
    if isinstance(part, Paragraph):
        return f"> {part.text}\n" if part.caveat else f"{part.text}\n"
    if isinstance(part, Bullets):
        return "".join(f"- {item}\n" for item in part.items)
    if isinstance(part, Code):
        return f"```\n{part.text}\n```\n"
    if isinstance(part, Accuracies):
        return f"### {part.table.title}\n\n{to_markdown(part.table)}"
    if isinstance(part, Grid):
        rule = tuple("---" if i < part.labels else "--:" for i in range(len(part.heads)))
        lines = ["| " + " | ".join(line) + " |" for line in (part.heads, rule, *part.lines)]
        return "\n".join(lines) + "\n" + (f"\n{part.note}\n" if part.note else "")
    link = Path(os.path.relpath(part.path, folder)).as_posix()
    return f"![{part.alt}]({link})\n\n{part.caption}\n"


def html(title: str, parts: Sequence[Part]) -> str:
    """The document as one HTML file with its pictures inside."""
    body = "\n".join(_html(part) for part in parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<h1>{escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def _html(part: Part) -> str:
    if isinstance(part, Heading):
        return f"<h2>{escape(part.text)}</h2>"
    if isinstance(part, Paragraph):
        return f"<p{' class=caveat' if part.caveat else ''}>{escape(part.text)}</p>"
    if isinstance(part, Bullets):
        return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in part.items) + "</ul>"
    if isinstance(part, Code):
        return f"<pre><code>{escape(part.text)}</code></pre>"
    if isinstance(part, Accuracies):
        return f"<h3>{escape(part.table.title)}</h3>\n{to_html(part.table)}"
    if isinstance(part, Grid):
        return _grid(part)
    data = base64.b64encode(part.path.read_bytes()).decode("ascii")
    image = f'<img src="data:image/png;base64,{data}" alt="{escape(part.alt)}">'
    return f"<figure>{image}<figcaption>{escape(part.caption)}</figcaption></figure>"


def _grid(grid: Grid) -> str:
    def cells(line: Sequence[str], tag: str) -> str:
        labels = "".join(f"<th>{escape(text)}</th>" for text in line[: grid.labels])
        rest = "".join(f'<{tag} class="number">{escape(text)}</{tag}>' for text in line[grid.labels :])
        return f"<tr>{labels}{rest}</tr>"

    lines = "\n".join(cells(line, "td") for line in grid.lines)
    note = f'<p class="note">{escape(grid.note)}</p>' if grid.note else ""
    return (
        f'<div class="wide"><table>\n<thead>{cells(grid.heads, "th")}</thead>\n<tbody>\n{lines}\n</tbody>\n'
        f"</table></div>\n{note}"
    )
