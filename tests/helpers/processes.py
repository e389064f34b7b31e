"""Commands in several processes, started as torchrun starts them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
from pathlib import Path

from clipalign.commands.cli import main


def child(rank: int, world: int, port: int, arguments: list[str], log: Path) -> None:
    """Run the command as one rank of a job."""
    environment = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": world,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    os.environ.update({name: str(value) for name, value in environment.items()})
    with log.with_suffix(f".{rank}").open("w") as file, contextlib.redirect_stdout(file):
        raise SystemExit(main(arguments))


def free_port() -> int:
    """Return a port of this machine that no process listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # the kernel picks one
        return int(probe.getsockname()[1])


def run_processes(world: int, arguments: list[str], log: Path) -> None:
    """Run a command in `world` processes, each printing to `log`.RANK, and assert that all succeed."""
    port = free_port()
    # Fork: new interpreters would spend ten times the test's time on imports.
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=child, args=(rank, world, port, arguments, log)) for rank in range(world)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(200)
    assert [process.exitcode for process in ranks] == [0] * world
