"""The built wheel finds its assets where it is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.helpers.packages import pip_install

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import clipalign, sys
from pathlib import Path
from clipalign.commands.cli import main
from clipalign.runs.options import shipped_config
from clipalign.runs.recipes import recipe_file
home = Path(clipalign.__file__).resolve().parent
assert home.is_relative_to(sys.argv[1]), home
assert shipped_config("pocket", "alignclip").is_relative_to(home)
assert all(recipe_file(recipe, "alignclip").is_relative_to(home) for recipe in ("published", "common"))
source = clipalign.load_source("pictograms")
assert len(source.class_names) >= 200 and len(source.domain_names) == 5
assert clipalign.load("pocket").backbone.num_blocks > 2
assert main(["list", "methods"]) == 0
"""


def test_installed_wheel_finds_its_assets(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 48 * 2**20
    home = tmp_path / "site"
    pip_install(home, wheel, "--no-compile")
    environment = os.environ | {"PYTHONPATH": str(home), "OMP_NUM_THREADS": "1"}
    run = [sys.executable, "-c", PROGRAM, str(home)]
    done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "alignclip" in done.stdout
