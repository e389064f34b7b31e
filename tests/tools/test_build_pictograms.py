"""The shipped art can be made again from the packages it came from."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "src" / "clipalign" / "assets" / "pictograms"


@pytest.mark.network
def test_rebuilding_gives_the_shipped_files(tmp_path: Path) -> None:
    pytest.importorskip("resvg_py")
    command = [sys.executable, str(ROOT / "tools" / "build_pictograms.py")]
    command += ["--work", str(ROOT / "art"), "--out", str(tmp_path)]
    subprocess.run(command, check=True, cwd=ROOT)
    for name in ("index.json", "splits.json"):
        assert json.loads((tmp_path / name).read_text()) == json.loads((SHIPPED / name).read_text())
    for path in SHIPPED.glob("*.webp"):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_shipped_art_is_small() -> None:
    total = sum(path.stat().st_size for path in SHIPPED.iterdir())
    assert total <= 12 * 2**20
