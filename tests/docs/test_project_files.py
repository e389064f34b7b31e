"""Package metadata, citation, changelog and workflows agree with each other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import clipalign
from clipalign.methods import get_method, list_methods
from clipalign.protocols import list_protocols

ROOT = Path(__file__).resolve().parents[2]
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def read_yaml(name: str) -> Any:
    """Return the content of a YAML file below the repository root."""
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_citation_and_changelog_have_the_version_of_the_package() -> None:
    version = clipalign.__version__
    assert read_yaml("CITATION.cff")["version"] == version
    assert f"\n## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_workflow_tests_the_declared_python_versions() -> None:
    declared = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PROJECT)
    matrix = read_yaml(".github/workflows/ci.yml")["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["python-version"] == declared
    assert f'requires-python = ">={declared[0]}"' in PROJECT


@pytest.mark.parametrize("name", ["ci.yml", "release.yml"])
def test_workflow_commands_use_existing_targets_and_extras(name: str) -> None:
    text = (ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert set(re.findall(r"run: make (\w+)", text)) <= targets
    extras = {extra for group in re.findall(r"\.\[([\w,]+)\]", text) for extra in group.split(",")}
    assert all(re.search(rf"^{extra} = \[", PROJECT, re.M) for extra in extras)


def test_citation_names_the_two_papers() -> None:
    titles = [reference["title"] for reference in read_yaml("CITATION.cff")["references"]]
    assert [title.partition(":")[0] for title in titles] == ["AlignCLIP", "SmartCLIP"]


def test_readme_table_covers_every_method_and_protocol() -> None:
    header, _, *lines = re.findall(r"^\|.*\|$", README.split("## Methods and protocols")[1], re.M)
    lines = lines[: next((i for i, line in enumerate(lines) if line.startswith("| Method")), len(lines))]
    assert [cell.strip() for cell in header.strip("|").split("|")][1:] == list_protocols()
    rows = {}
    for line in lines:
        names, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        rows |= dict.fromkeys(re.findall(r"`([a-z-]+)`", names), cells)
    rows = {name: dict(zip(list_protocols(), cells, strict=True)) for name, cells in rows.items()}
    assert set(rows) == set(list_methods())
    guide = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    for name, row in rows.items():
        captions = get_method(name).learns_from == "captions"
        new_classes = re.search(rf"^\| `{name}` \|.*\| (.+?) \|$", guide, re.M)[1]  # type: ignore[index]
        linear_head = new_classes == "no" or new_classes.startswith("with ")
        assert (row["retrieval"] == "✓") == (captions or name == "zeroshot"), name
        assert (row["domain-shift"] == "✓") == (not captions), name
        assert (row["base-to-new"] == "base only") == linear_head, name
        assert (row["in-the-wild"] == "–") == (captions or linear_head), name
