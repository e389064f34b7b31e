"""The files and packages that docs/architecture.md names exist, and so does every package in its table."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "clipalign"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def exists(name: str) -> bool:
    """Return whether a path exists below the package, below one of its packages, or below the root."""
    return any((base / name).exists() for base in (PACKAGE, ROOT)) or any(PACKAGE.glob(f"*/{name}"))


def test_named_files_and_folders_exist() -> None:
    names = set(re.findall(r"`([\w/]+(?:/|\.py))`", PAGE)) | set(re.findall(r"^ *\d+ +(\S+\.py)", PAGE, re.M))
    assert len(names) > 30
    assert sorted(name for name in names if not exists(name)) == []


def test_path_of_a_batch_has_ten_distinct_files() -> None:
    path = re.findall(r"^ *\d+ +(\S+\.py)", PAGE, re.M)
    assert len(path) == len(set(path)) == 10


def test_table_lists_every_package() -> None:
    packages = {
        folder.name for folder in PACKAGE.iterdir() if folder.is_dir() and folder.name != "__pycache__"
    }
    assert set(re.findall(r"^\| `(\w+)/` \|", PAGE, re.M)) == packages
