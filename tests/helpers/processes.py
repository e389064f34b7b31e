"""Commands in run_processes processes."""

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


def run_processes(world: int, arguments: list[str], log: Path) -> None:
    """A command in run_processes processes, as torchrun would start them; each writes what it prints to `log`.RANK."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Forked, since fresh interpreters would spend ten times the test's time on importing.
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=child, args=(rank, world, port, arguments, log)) for rank in range(world)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(200)
    assert [process.exitcode for process in ranks] == [0] * world
