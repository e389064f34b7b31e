from __future__ import annotations

import functools
import operator
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from clipalign.commands.cli import main
from clipalign.core.checkpoint import load_weights
from clipalign.core.distributed import Ranks
from clipalign.evaluation.results import read_results
from tests.helpers.processes import run_processes


@pytest.mark.parametrize("length", [1, 2, 7, 36])
@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_shares_partition_evenly(length: int, world: int) -> None:
    parts = [list(range(length))[Ranks(rank, world).share(length)] for rank in range(world)]
    assert functools.reduce(operator.iadd, parts, []) == list(range(length))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_single_process_is_a_no_op() -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.grad = torch.full((3,), 2.0)
    ranks = Ranks()
    ranks.sum_gradients([parameter])
    assert parameter.grad.tolist() == [2, 2, 2] and ranks.gather("x") == ["x"] and ranks.is_main


ARGUMENTS = [
    "--protocol",
    "in-the-wild",
    "--target",
    "grey",
    "--steps",
    "4",
    "--batch-size",
    "7",
    "--lr",
    "1e-3",
]
ARGUMENTS += ["--optimizer", "sgd", "--micro-batch-size", "3", "--log-every", "2"]


def check_same(one: Path, many: Path, tiny_spec: str) -> None:
    """Check that weights and rows of two runs agree, and that training changed the weights."""
    a, b = (load_weights(run / "last.safetensors") for run in (one, many))
    start = load_weights(Path(tiny_spec.removeprefix("local-dir:")) / "open_clip_model.safetensors")
    moved = max(float((a[name] - start[name]).abs().max()) for name in a if a[name].is_floating_point())
    apart = max(float((a[name] - b[name]).abs().max()) for name in a)
    assert moved > 1e-4 and apart < 1e-3 * moved
    pairs = zip(read_results(one), read_results(many), strict=True)
    assert all((a.test, a.n, a.accuracy) == (b.test, b.n, b.accuracy) for a, b in pairs)


@pytest.mark.parametrize("world", [2, 3])
def test_training_in_several_processes_equals_one_process(
    world: int, tiny_spec: str, squares_folder: Path, tmp_path: Path
) -> None:
    """Seven images per step: neither two nor three processes have equal shares."""
    arguments = ["train", "--backbone", tiny_spec, "--data", str(squares_folder), *ARGUMENTS]
    assert main([*arguments, "--out", str(tmp_path / "one")]) == 0
    run_processes(world, [*arguments, "--out", str(tmp_path / "many")], tmp_path / "log")
    check_same(tmp_path / "one", tmp_path / "many", tiny_spec)
    output = [(tmp_path / f"log.{rank}").read_text() for rank in range(world)]
    assert "all: " in output[0] and not any(output[1:])  # only the main process prints


@pytest.mark.slow
def test_torchrun_training_equals_one_process(tiny_spec: str, squares_folder: Path, tmp_path: Path) -> None:
    arguments = ["train", "--backbone", tiny_spec, "--data", str(squares_folder), *ARGUMENTS]
    assert main([*arguments, "--out", str(tmp_path / "one")]) == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launch, "-m", "clipalign", *arguments, "--out", str(tmp_path / "many")]
    subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, timeout=300)
    check_same(tmp_path / "one", tmp_path / "many", tiny_spec)
