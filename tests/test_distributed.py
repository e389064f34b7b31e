from __future__ import annotations

import functools
import operator
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from clipalign.checkpoint import load_weights
from clipalign.cli import main
from clipalign.distributed import Ranks
from clipalign.results import read_results


@pytest.mark.parametrize("length", [1, 2, 7, 36])
@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_shares_cover_everything_once_and_evenly(length: int, world: int) -> None:
    parts = [list(range(length))[Ranks(rank, world).share(length)] for rank in range(world)]
    assert functools.reduce(operator.iadd, parts, []) == list(range(length))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_alone_nothing_happens() -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.grad = torch.full((3,), 2.0)
    ranks = Ranks()
    ranks.sum_gradients([parameter])
    assert parameter.grad.tolist() == [2, 2, 2] and ranks.gather("x") == ["x"] and ranks.first


@pytest.mark.parametrize("world", [2, 3])
def test_several_processes_train_as_one(
    world: int, tiny_spec: str, squares_folder: Path, tmp_path: Path
) -> None:
    """Seven images a step, which neither two nor three processes share equally."""
    arguments = ["train", "--backbone", tiny_spec, "--data", str(squares_folder), "--protocol", "in-the-wild"]
    arguments += [
        "--target",
        "grey",
        "--steps",
        "4",
        "--batch-size",
        "7",
        "--lr",
        "1e-3",
        "--optimizer",
        "sgd",
    ]
    arguments += ["--micro-batch-size", "3", "--log-every", "2"]
    assert main([*arguments, "--out", str(tmp_path / "one")]) == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
    command = [*launch, "-m", "clipalign", *arguments, "--out", str(tmp_path / "many")]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, many = (load_weights(tmp_path / name / "last.safetensors") for name in ("one", "many"))
    start = load_weights(Path(tiny_spec.removeprefix("local-dir:")) / "open_clip_model.safetensors")
    moved = max(float((one[name] - start[name]).abs().max()) for name in one if one[name].is_floating_point())
    apart = max(float((one[name] - many[name]).abs().max()) for name in one)
    assert moved > 1e-4 and apart < 1e-3 * moved
    pairs = zip(read_results(tmp_path / "one"), read_results(tmp_path / "many"), strict=True)
    assert all((a.test, a.n, a.accuracy) == (b.test, b.n, b.accuracy) for a, b in pairs)
    assert done.stdout.count("all: ") == 1  # one process talks
