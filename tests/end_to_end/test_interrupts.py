"""Signals end a run after the current step with a checkpoint; one process at a time writes a run."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from clipalign.commands.cli import main
from clipalign.core.checkpoint import remove_abandoned
from clipalign.core.errors import UserError
from clipalign.core.locks import LOCK, locked
from tests.helpers.processes import child, free_port

STEPS = 300  # of a run that is stopped in its first steps; a step takes a few milliseconds


def command(tiny_spec: str, data: Path, out: Path, *further: str, steps: int = STEPS) -> list[str]:
    given = ["train", "--method", "erm", "--backbone", tiny_spec, "--data", str(data), "--target", "grey"]
    given += [
        "--steps",
        str(steps),
        "--batch-size",
        "4",
        "--lr",
        "1e-3",
        "--log-every",
        "1",
        "--validate-every",
        "0",
    ]
    return [*given, "--checkpoint-every", "0", "--out", str(out), *further]


def to_file(arguments: list[str], log: Path) -> None:
    """Run a command with its output in a file, and exit with its status."""
    # A shell starts background jobs, and so their tests, with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.stderr = sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115 - not those that pytest captures
        os._exit(main(arguments))


def start(arguments: list[str], log: Path) -> BaseProcess:
    # Forked rather than spawned: a fresh interpreter would import torch for seconds.
    process = multiprocessing.get_context("fork").Process(target=to_file, args=(arguments, log))
    process.start()
    return process


def wait_for_steps(out: Path, process: BaseProcess, steps: int = 3) -> None:
    metrics, end = out / "metrics.jsonl", time.monotonic() + 120
    while not (metrics.is_file() and metrics.read_text().count("\n") >= steps):
        assert process.is_alive() and time.monotonic() < end
        time.sleep(0.002)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_writes_a_checkpoint_and_the_resumed_run_gives_the_same_bytes(
    tiny_spec: str,
    squares_folder: Path,
    tmp_path: Path,
    number: signal.Signals,
    status: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, whole, log = tmp_path / "run", tmp_path / "whole", tmp_path / "log"
    # Only the run that is resumed has to end, so the other one is too long to end before the signal.
    steps = STEPS if number == signal.SIGTERM else 5000
    process = start(command(tiny_spec, squares_folder, out, steps=steps), log)
    wait_for_steps(out, process)
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == status
    *_, last = lines = log.read_text().splitlines()
    done = len((out / "metrics.jsonl").read_text().splitlines())
    assert last == f"stopped after step {done} of {steps}; resume with: clipalign train --out {out} --resume"
    assert not any("Traceback" in line for line in lines)
    assert (out / "checkpoint" / "state.safetensors").is_file() and not (out / "results.jsonl").exists()
    assert (out / "log.txt").read_text().splitlines()[-1] == last
    assert not list(out.rglob(".*"))  # neither lock nor temporary files

    if number == signal.SIGTERM:  # a resumed run is the same after either signal
        (out / f".model.safetensors.{dead_process()}.tmp").touch()
        assert main(["train", "--out", str(out), "--resume"]) == 0
        assert f"resuming after step {done} of {STEPS}" in capsys.readouterr().err
        assert main(command(tiny_spec, squares_folder, whole)) == 0
        assert not list(out.rglob(".*"))
        for name in ("model.safetensors", "predictions.npz"):
            assert (out / name).read_bytes() == (whole / name).read_bytes()
        rows = [json.loads((folder / "results.jsonl").read_text().splitlines()[0]) for folder in (out, whole)]
        assert rows[0]["lr_from"] == rows[1]["lr_from"] == "command line"
        assert rows[0]["recipe_changes"] == rows[1]["recipe_changes"]


def test_second_run_is_refused_while_the_first_lives(
    tiny_spec: str, squares_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    process = start(command(tiny_spec, squares_folder, out, steps=5000), tmp_path / "log")
    wait_for_steps(out, process)
    for way in ("--resume", "--overwrite"):
        assert main(command(tiny_spec, squares_folder, out, way, steps=5000)) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert f"process {process.pid} on {socket.gethostname()} is writing {out}" in error
    process.kill()
    process.join()
    assert (out / LOCK).is_file()  # of a dead process
    assert main(command(tiny_spec, squares_folder, out, "--overwrite", steps=3)) == 0
    assert not (out / LOCK).exists()


def test_lock_of_another_host_is_kept_and_that_of_a_dead_process_replaced(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text(json.dumps({"host": "elsewhere", "pid": 1}))
    with pytest.raises(UserError, match=r"process 1 on elsewhere .* delete"), locked(tmp_path):
        pass
    for content in (json.dumps({"host": socket.gethostname(), "pid": dead_process()}), "", '{"host"'):
        (tmp_path / LOCK).write_text(content)
        with locked(tmp_path):
            assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
            with pytest.raises(UserError, match="is writing"), locked(tmp_path):
                pass
        assert not (tmp_path / LOCK).exists()
    # The number of the dead process now belongs to another one, here to this one.
    (tmp_path / LOCK).write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
    with locked(tmp_path):
        pass


def test_temporary_files_of_dead_processes_are_removed(tmp_path: Path) -> None:
    kept = [tmp_path / f".a.{os.getpid()}.tmp", tmp_path / ".b.tmp", tmp_path / "c.tmp"]
    for path in (*kept, tmp_path / f".model.safetensors.{dead_process()}.tmp"):
        path.touch()
    remove_abandoned(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)


def test_all_processes_stop_after_the_same_step_and_the_first_writes(
    tiny_spec: str, squares_folder: Path, tmp_path: Path
) -> None:
    out, port = tmp_path / "run", free_port()
    arguments = command(tiny_spec, squares_folder, out, steps=5000)
    context = multiprocessing.get_context("fork")
    ranks = [
        context.Process(target=child, args=(rank, 2, port, arguments, tmp_path / "log")) for rank in range(2)
    ]
    for process in ranks:
        process.start()
    wait_for_steps(out, ranks[0])
    assert ranks[1].pid is not None
    os.kill(ranks[1].pid, signal.SIGTERM)  # only one of them, and not the one that writes
    for process in ranks:
        process.join(60)
    assert [process.exitcode for process in ranks] == [143, 143]
    assert "stopped after step" in (out / "log.txt").read_text()
    assert (out / "checkpoint" / "state.safetensors").is_file()


def dead_process() -> int:
    """Return the number of a process that has ended."""
    process = multiprocessing.get_context("fork").Process(target=int)
    process.start()
    process.join()
    assert process.pid is not None
    return process.pid
