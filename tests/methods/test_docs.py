"""docs/methods.md names every method, and says of each what the class says."""

from __future__ import annotations

import re
from pathlib import Path

from clipalign.methods import all_methods

TEXT = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
GLANCE = TEXT.split("## At a glance")[1].split("\n## ")[0]
ROWS = {
    name: cells
    for name, *cells in re.findall(r"^\| `([a-z-]+)` \| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$", GLANCE, re.M)
}


def test_every_method_has_a_line_and_no_other_has() -> None:
    assert set(ROWS) == {method.name for method in all_methods()}


def test_averages_are_those_of_the_classes() -> None:
    for method in all_methods():
        assert ROWS[method.name][2] == (method.average if method.iterates else "–"), method.name


def test_what_is_left_out_is_named() -> None:
    assert "### tes: left out" in TEXT
