"""Links and file paths in the documentation resolve."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "configs/*.md", ".github/*.md", "src/clipalign/assets/*/*.md")
    for path in ROOT.glob(pattern)
)
SOURCES = sorted(
    path
    for folder in ("src", "tests", "tools", "benchmarks", "examples", "configs")
    for pattern in ("*.py", "*.yaml")
    for path in (ROOT / folder).rglob(pattern)
    if path != Path(__file__)
)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
# Paths from the repository root, as in `docs/results.md` or `python tools/draw_pictoscenes.py`.
PATH = re.compile(
    r"(?<![\w./-])((?:docs|configs|tools|benchmarks|examples)/[\w./-]*\.(?:md|py|yaml|txt|png))"
)


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path, text: str) -> Iterator[str]:
    """Yield the relative links of a page that lead to no file or no heading."""
    for target in LINK.findall(re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        there = file.exists()
        if there and anchor:
            there = anchor in anchors(text if file == page else file.read_text(encoding="utf-8"))
        if not there:
            yield target


def missing_paths(text: str) -> set[str]:
    """Return the paths from the repository root mentioned in a text that do not exist."""
    names = {
        name for name in PATH.findall(text) if not re.search(r"\b[A-Z]{3,}\.", name)
    }  # METHOD.yaml is a placeholder
    return {name for name in names if not (ROOT / name).exists()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_paths_of_page_resolve(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert list(broken_links(page, text)) == []
    assert missing_paths(text) == set()


def test_paths_in_code_and_configs_resolve() -> None:
    missing = {
        str(path.relative_to(ROOT)): missing_paths(path.read_text(encoding="utf-8")) for path in SOURCES
    }
    assert {path: names for path, names in missing.items() if names} == {}


def test_every_page_is_listed_in_the_index() -> None:
    index = ROOT / "docs" / "index.md"
    listed = {(index.parent / target).resolve() for target in LINK.findall(index.read_text(encoding="utf-8"))}
    assert {page for page in PAGES if page.is_relative_to(ROOT / "docs") and page != index} <= listed


def test_readme_links_to_the_index_and_shows_a_figure() -> None:
    targets = LINK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    assert "docs/index.md" in targets and any(target.endswith(".png") for target in targets)


def test_broken_links_and_paths_are_found() -> None:
    page = ROOT / "README.md"
    text = "[a](docs/none.md) [b](docs/index.md) [c](docs/index.md#none) [d](#here) see `docs/none.md`\n\n# Here\n"
    assert list(broken_links(page, text)) == ["docs/none.md", "docs/index.md#none"]
    assert missing_paths(text) == {"docs/none.md"}
