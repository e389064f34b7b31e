"""The package of docs/extending.md, installed outside of clipalign."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import clipalign
from clipalign.backbone import Backbone, preprocess_for
from clipalign.core.errors import UserError
from clipalign.data.batches import TrainBatches
from clipalign.data.sources.folder import ImageFolder
from clipalign.methods import METHODS, get_method, list_methods
from clipalign.protocols import build_episode
from clipalign.runs.options import train_options

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "examples" / "extensions"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the example package and install it into an empty folder, without network."""
    wheels, home = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(wheels)]
    subprocess.run(build, cwd=PACKAGE, check=True, capture_output=True)
    (wheel,) = wheels.glob("*.whl")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--target"]
    subprocess.run([*install, str(home), str(wheel)], check=True)
    return home


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make the package's methods known for one test."""
    monkeypatch.syspath_prepend(site)
    with METHODS.isolated():
        yield


def run_command(site: Path, folder: Path, *arguments: str) -> str:
    """Run a command in a process that has the package on its path, and return its output."""
    path = os.pathsep.join([str(site), str(Path(clipalign.__file__).parents[1])])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "clipalign", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_kind_of_extension_works_in_one_run(site: Path, tmp_path: Path, tiny_spec: str) -> None:
    names = {"methods": "l2-sp", "protocols": "iid", "data": "digits", "metrics": "calibration-error"}
    for kind, name in (names | {"exports": "torch-export", "trackers": "csv"}).items():
        assert name in run_command(site, tmp_path, "list", kind), kind
    short = ["--steps", "2", "--batch-size", "4", "--backbone", tiny_spec, "--data-options", "limit=60"]
    method = ["--method", "l2-sp", "--pull", "0.05", "--data", "digits", "--protocol", "iid"]
    run_command(site, tmp_path, "train", *method, *short, "--log-to", "csv", "--out", "runs/l2")
    rows = [json.loads(line) for line in (tmp_path / "runs/l2/results.jsonl").read_text().splitlines()]
    assert rows and all(0 <= row["calibration_error"] <= 1 for row in rows if row["method"] == "l2-sp")
    assert {row["protocol"] for row in rows} == {"iid"}
    assert list((tmp_path / "runs/l2").glob("*.csv")), "the tracker wrote nothing"
    run_command(site, tmp_path, "export", "runs/l2", "--to", "torch-export", "--out", "exported")
    assert any((tmp_path / "exported").iterdir())
    run_command(site, tmp_path, "report", "runs", "--out", "report", "--pictures", "0")
    assert "alibration" in (tmp_path / "report" / "report.md").read_text()


def test_examples_are_short() -> None:
    files = list((PACKAGE / "clipalign_extensions").glob("*.py"))
    assert len(files) > 5 and all(len(file.read_text().splitlines()) < 70 for file in files)
    assert len((PACKAGE / "clipalign_extensions" / "l2_sp.py").read_text().splitlines()) < 60


def test_method_of_another_package_has_options(installed: None) -> None:
    assert "l2-sp" in list_methods()
    options = train_options(
        ["--method", "l2-sp", "--pull", "0.5", "--out", "x", "--backbone", "ViT-B-16:random"]
    )
    optimiser = options.config.optimiser
    assert options.hyper.pull == 0.5 and optimiser.lr == 5e-6 and optimiser.weight_decay == 0
    with pytest.raises(UserError, match="--pull"):
        train_options(["--method", "l2-sp", "--pull", "-1", "--out", "x"])
    with pytest.raises(UserError, match="--pull is an option of --method l2-sp"):
        train_options(["--method", "erm", "--pull", "1", "--out", "x"])


def test_method_of_another_package_trains(installed: None, tiny: Backbone, squares: ImageFolder) -> None:
    cls: Any = get_method("l2-sp")
    episode = build_episode("domain-shift", squares, "grey", 0)
    moved = []
    for pull in (0.0, 50.0):
        method = cls(cls.Config(pull=pull))
        method.setup(tiny, episode, squares.templates)
        before = torch.cat([p.detach().flatten() for p in method.parameters()])
        optimizer = torch.optim.SGD(method.parameters(), lr=1e-3)
        for step in range(3):
            optimizer.zero_grad()
            batch = TrainBatches(episode, 6, 0, preprocess_for(tiny))[step]
            terms = method.loss(batch)
            (terms["loss_ce"] + terms["loss_pull"]).backward()
            optimizer.step()
        after = torch.cat([p.detach().flatten() for p in method.parameters()])
        moved.append(float((after - before).norm()))
        for p, start in zip(method.parameters(), method.start_weights, strict=True):
            p.data.copy_(start)
    assert 0 < moved[1] < moved[0]


def test_method_is_unknown_without_its_entry_point() -> None:
    assert "l2-sp" not in list_methods()
