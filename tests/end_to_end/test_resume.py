"""A run killed at a random step and resumed gives the bytes of an uninterrupted run."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest

from clipalign.commands.cli import main


@pytest.mark.parametrize(
    "options",
    [
        ("--method", "erm", "--validate-every", "10"),
        ("--method", "erm", "--validate-every", "3", "--select", "best"),
        ("--method", "alignclip", "--validate-every", "0", "--guide-from", "averaged"),
    ],
    ids=["last", "best", "averaged-guide"],
)
def test_killed_and_resumed_run_gives_the_same_bytes(
    options: tuple[str, ...], tiny_spec: str, squares_folder: Path, tmp_path: Path
) -> None:
    arguments = ["train", "--backbone", tiny_spec, "--data", str(squares_folder), "--target", "grey"]
    arguments += ["--steps", "30", "--batch-size", "4", "--lr", "1e-3", "--checkpoint-every", "4"]
    arguments += ["--log-every", "1", *options]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main([*arguments, "--out", str(whole)]) == 0

    again, metrics = [*arguments, "--out", str(broken), "--resume"], broken / "metrics.jsonl"
    stops = sorted(random.sample(range(1, 26), 2))
    for stop in stops:
        # Forked rather than spawned: a fresh interpreter would import torch for seconds.
        process = multiprocessing.get_context("fork").Process(target=main, args=(again,))
        process.start()
        while process.is_alive() and not (metrics.is_file() and metrics.read_text().count("\n") >= stop):
            time.sleep(0.001)
        time.sleep(random.random() / 50)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL, stops
        assert not (broken / "results.jsonl").exists()

    assert main(again) == 0
    for name in ("model.safetensors", "last.safetensors", "predictions.npz"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes(), (name, stops)
