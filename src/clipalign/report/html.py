"""A report as one HTML file, with its pictures inside.

Templates escape all text: class names, folders and commands come from the files of a user.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment

from ..core.pages import data_uri, page_environment
from .document import Part
from .render import cell_text
from .result_table import ResultTable


def to_html(title: str, parts: Sequence[Part]) -> str:
    """Return a report as an HTML page that loads nothing.

    Args:
        title: first heading, and title of the page.
        parts: content.
    """
    return _environment().get_template("report.html.jinja").render(title=title, parts=parts)


def table_html(table: ResultTable) -> str:
    """Return a table of results as HTML, its notes below; the best cells have the class "best"."""
    module = _environment().get_template("parts.html.jinja").module
    return str(module.results_table(table))  # type: ignore[attr-defined]


@cache
def _environment() -> Environment:
    environment = page_environment(__package__).overlay()
    environment.filters = environment.filters | {"cell": cell_text, "data_uri": png_uri}
    return environment


def png_uri(path: Path) -> str:
    """Return a PNG file as a data URI."""
    return data_uri(path.read_bytes(), "png")
