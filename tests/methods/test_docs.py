"""docs/methods.md and docs/method-reference.md cover every method and agree with its class."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from clipalign.methods import all_methods
from clipalign.runs.recipes import read_recipe, recipe_file

DOCS = Path(__file__).parents[2] / "docs"
GUIDE = (DOCS / "methods.md").read_text(encoding="utf-8")
REFERENCE = (DOCS / "method-reference.md").read_text(encoding="utf-8")
GLANCE = GUIDE.split("## At a glance")[1].split("\n## ")[0]
ROWS = {
    name: cells
    for name, *cells in re.findall(r"^\| `([a-z-]+)` \| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$", GLANCE, re.M)
}
SECTIONS = dict(re.findall(r"^### (\S+)\n(.*?)(?=^##|\Z)", REFERENCE, re.M | re.S))
SETTINGS = REFERENCE.split("## Published settings")[1].split("\n## ")[0]


def test_guide_has_one_row_per_method() -> None:
    assert set(ROWS) == {method.name for method in all_methods()}


def test_guide_lists_the_default_average_of_each_method() -> None:
    for method in all_methods():
        assert ROWS[method.name][2] == (method.average if method.iterates else "–"), method.name


def test_reference_has_one_section_per_method_and_names_the_omitted_one() -> None:
    assert set(SECTIONS) == {method.name for method in all_methods()} | {"tes"}
    assert "## Not implemented\n\n### tes\n" in REFERENCE
    assert all(len(text.split()) > 8 for text in SECTIONS.values())


def test_reference_lists_the_published_settings_of_each_method() -> None:
    listed: dict[str, list[str]] = {}
    for line in SETTINGS.splitlines():
        if line.startswith("| `"):
            names, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            listed |= dict.fromkeys(re.findall(r"`([a-z-]+)`", names), cells)
    keys = ("optimizer", "lr", "weight_decay", "schedule", "warmup_steps", "steps", "batch_size")
    defaults = {name: read_recipe(recipe_file("published", name) or Path())["defaults"] for name in ROWS}
    expected = {
        method.name: [
            "–"
            if key not in defaults[method.name]
            else f"{defaults[method.name][key]:g}"
            if not isinstance(defaults[method.name][key], str)
            else defaults[method.name][key]
            for key in keys
        ]
        for method in all_methods()
        if method.iterates
    }
    assert listed == expected


def test_reference_compares_each_method_with_its_published_recipe() -> None:
    for method in all_methods():
        assert re.search(r"\*\*Published recipe:\*\* \S+", SECTIONS[method.name]), method.name


def test_options_in_a_section_exist() -> None:
    others = {"average", "bma-beta", "method", "protocol", "calls"}  # of `clipalign train` and of a benchmark
    for method in all_methods():
        flags = {
            flag.removeprefix("no-") for flag in re.findall(r"(?<!-)--([a-z][a-z-]*)", SECTIONS[method.name])
        }
        own = {field.name.replace("_", "-") for field in fields(method.Config)}
        assert flags <= own | others, (method.name, flags - own)
