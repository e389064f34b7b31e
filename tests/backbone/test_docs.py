"""docs/backbones.md: the tables of families and of what methods need."""

from __future__ import annotations

import re
from pathlib import Path

from clipalign.backbone.families import FAMILIES
from clipalign.methods import all_methods, get_method

PAGE = (Path(__file__).parents[2] / "docs" / "backbones.md").read_text(encoding="utf-8")
IMAGE = ("image tokens", "image prompts", "image layers")


def rows(header: str) -> list[list[str]]:
    """Return the cells of the table with this header line."""
    lines = PAGE[PAGE.index(header) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_table_of_families_agrees_with_the_code() -> None:
    table = rows("| image tower | for example |")
    assert [row[0] for row in table] == [family.name for family in FAMILIES.values()]
    for family, row in zip(FAMILIES.values(), table, strict=True):
        named = re.findall(r"`([^`]+)`", row[1])
        assert named and all(name in family.examples for name in named)
        assert [cell.startswith("yes") for cell in row[2:]] == [c in family.capabilities for c in IMAGE]


def test_table_of_needs_names_every_method_that_needs_more_than_features() -> None:
    listed = {name for row in rows("| needs | methods |") for name in re.findall(r"`([a-z-]+)`", row[1])}
    assert listed == {method.name for method in all_methods() if method.needs}
    for needs, names in rows("| needs | methods |")[:-1]:
        for name in re.findall(r"`([a-z-]+)`", names):
            assert sorted(get_method(name).needs) == sorted(needs.split(" and "))
