"""`kill -9` at a random moment, then --resume: the same bytes as without."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from clipalign.cli import main


def test_a_killed_run_resumes_to_the_same_bytes(tiny_spec: str, squares_folder: Path, tmp_path: Path) -> None:
    arguments = ["train", "--backbone", tiny_spec, "--data", str(squares_folder), "--target", "grey"]
    arguments += ["--steps", "80", "--batch-size", "4", "--lr", "1e-3", "--checkpoint-every", "3"]
    arguments += ["--log-every", "1", "--validate-every", "20"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main([*arguments, "--out", str(whole)]) == 0

    command = [sys.executable, "-m", "clipalign", *arguments, "--out", str(broken), "--resume"]
    kills = 0
    for stop in sorted(random.sample(range(5, 60), 2)):
        process = subprocess.Popen(
            command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL
        )
        metrics = broken / "metrics.jsonl"
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if metrics.is_file() and metrics.read_text().count("\n") >= stop:
                os.kill(process.pid, signal.SIGKILL)
                break
            time.sleep(0.002)
        kills += process.wait() == -signal.SIGKILL
        assert not (broken / "results.jsonl").exists() or process.returncode == 0
    assert kills == 2

    assert main([*arguments, "--out", str(broken), "--resume"]) == 0
    for name in ("model.safetensors", "last.safetensors", "predictions.npz"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes(), name
    assert not list(broken.glob(".*.tmp")) or all(p.suffix == ".tmp" for p in broken.glob(".*"))
