"""The public names of the package, and those that the documentation uses."""

from __future__ import annotations

import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import clipalign
from clipalign import _MODULES

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SUBPACKAGES = {module.name for module in pkgutil.iter_modules(clipalign.__path__)}


def test_public_names_import_and_differ_from_subpackages() -> None:
    assert sorted(_MODULES) == sorted(clipalign.__all__)
    assert not SUBPACKAGES & set(clipalign.__all__)
    for name in clipalign.__all__:
        assert callable(getattr(clipalign, name)), name
        assert (getattr(clipalign, name).__doc__ or "").strip(), name
    with pytest.raises(AttributeError, match="no attribute 'tarin'"):
        _ = clipalign.tarin  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_names_in_the_docs_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    used = set(re.findall(r"\bclipalign\.(\w+)\(", text))
    for names in re.findall(r"^\s*from clipalign import (.+)$", text, re.MULTILINE):
        used |= {name.partition(" as ")[0].strip(" ()") for name in names.split(",")}
    assert used <= set(clipalign.__all__), used - set(clipalign.__all__)


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, clipalign; dir(clipalign); print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_check_data_prints_and_draws_like_the_command(
    squares_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problems = clipalign.check_data(squares_folder, sheet=tmp_path / "sheet.png", layout="domain")
    assert problems == [] and "3 domain(s)" in capsys.readouterr().out
    assert (tmp_path / "sheet.png").is_file()
