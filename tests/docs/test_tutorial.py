"""The commands and the Python code of the tutorial run, in order, with fewer optimiser steps."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
SHORTER = {
    "demo": ["--steps", "1", "--pictures", "2", "--backbone", "pocket:random"],
    "train": ["--steps", "2"],
}


def run(arguments: list[str], folder: Path) -> None:
    """Run a process in a folder and fail with its output."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{shlex.join(arguments)}\n{done.stdout}{done.stderr}"


@pytest.mark.slow
def test_tutorial_runs_from_start_to_end(tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    lines = "".join(re.findall(r"^```sh\n(.*?)^```", TUTORIAL, re.M | re.S)).splitlines()
    assert len(lines) >= 11
    for line in lines:
        program, *arguments = shlex.split(line, comments=True)
        start = [sys.executable] if program == "python" else [sys.executable, "-m", program]
        run([*start, *arguments, *SHORTER.get(arguments[0], [])], tmp_path)
    (code,) = re.findall(r"^```python\n(.*?)^```", TUTORIAL, re.M | re.S)
    run([sys.executable, "-c", code.replace("steps=100", "steps=2")], tmp_path)
    for name in ("runs/report/report.html", "maps/explain.png", "my_model/open_clip_model.safetensors"):
        assert (tmp_path / name).is_file(), name
