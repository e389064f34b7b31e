"""Worker processes, and the runs given to them."""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...core.yaml_files import plain
from ...runs.folder import RunFolder
from .study import Job

LOGS = "logs"


@dataclass(frozen=True)
class Event:
    """Something happened to a run: it was started, or ended (with `error` None where it went well)."""

    job: Job
    started: bool
    error: str | None = None


def run_all(jobs: Sequence[Job], out: Path, processes: int, devices: Sequence[str]) -> Iterator[Event | None]:
    """Do all runs; a failing one stops no other.

    Args:
        jobs: what is to be done, in order.
        out: folder of the study.
        processes: how many at once.
        devices: given to the processes in turn; none leaves the choice to the runs.

    Yields:
        Events as they come, and None every half second in between.
    """
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    count = max(1, min(processes, len(jobs)))
    threads = [
        threading.Thread(
            target=_serve,
            args=(waiting, events.put, out, devices[i % len(devices)] if devices else None, count),
            daemon=True,
        )
        for i in range(count)
    ]
    for thread in threads:
        thread.start()
    left = len(jobs)
    while left:
        try:
            event = events.get(timeout=0.5)
        except queue.Empty:
            yield None
            continue
        left -= not event.started
        yield event


def _serve(
    waiting: queue.SimpleQueue[Job], tell: Callable[[Event], None], out: Path, device: str | None, count: int
) -> None:
    """One worker process at a time; a new one after one that died."""
    worker: subprocess.Popen[str] | None = None
    while True:
        try:
            job = waiting.get_nowait()
        except queue.Empty:
            break
        tell(Event(job, started=True))
        if worker is None or worker.poll() is not None:
            worker = _start(count)
        tell(Event(job, started=False, error=_ask(worker, job, out, device)))
    if worker is not None and worker.stdin is not None:
        worker.stdin.close()
        worker.wait()


def _start(count: int) -> subprocess.Popen[str]:
    threads = str(max(1, (os.cpu_count() or 1) // count))
    environment = {"OMP_NUM_THREADS": threads, **os.environ}
    return subprocess.Popen(
        [sys.executable, "-m", "clipalign.commands.sweep.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def _ask(worker: subprocess.Popen[str], job: Job, out: Path, device: str | None) -> str | None:
    """Have a worker do a run; returns what went wrong."""
    assert worker.stdin is not None and worker.stdout is not None
    folder = RunFolder(out / job.name)
    options = {name: plain(value) for name, value in job.values(out).items()}
    if device is not None:
        options["device"] = device
    if folder.config.is_file():
        options["resume"] = True
    elif folder.path.is_dir() and all(path.name.startswith(".") for path in folder.path.iterdir()):
        shutil.rmtree(folder.path)  # killed before it had written anything
    task = {"name": job.name, "options": options, "log": str(out / LOGS / f"{job.name}.txt")}
    answer = ""
    try:
        worker.stdin.write(json.dumps(task) + "\n")
        worker.stdin.flush()
        answer = worker.stdout.readline()
    except OSError:  # it died between two runs
        pass
    if not answer:
        return (
            f"its process ended with status {worker.wait()} (killed, or out of memory?); log: {task['log']}"
        )
    error: str | None = json.loads(answer)["error"]
    return error
