"""Worker processes of a sweep, and the queue of runs that they serve."""

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
from typing import TYPE_CHECKING

from ...core.yaml_files import plain
from ...runs.folder import RunFolder
from .study import Job

if TYPE_CHECKING:
    from .worker import Task  # the module is run by `python -m`, which must not find it imported

LOGS = "logs"
POLL = 0.5  # seconds without an event after which `run_all` yields None


@dataclass(frozen=True)
class Event:
    """Start or end of a run.

    Attributes:
        job: the run.
        started: True at the start, False at the end.
        error: at the end, what went wrong; None if nothing did.
    """

    job: Job
    started: bool
    error: str | None = None


def run_all(jobs: Sequence[Job], out: Path, processes: int, devices: Sequence[str]) -> Iterator[Event | None]:
    """Run all jobs in worker processes; a failing job does not stop the others.

    Args:
        jobs: runs, in order.
        out: folder of the study.
        processes: number of workers.
        devices: assigned to the workers in turn; empty: each run selects its device.

    Yields:
        Events as they happen, and None if there was none for half a second.
    """
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    count = max(1, min(processes, len(jobs)))
    for i in range(count):
        device = devices[i % len(devices)] if devices else None
        threading.Thread(target=_serve, args=(waiting, events.put, out, device, count), daemon=True).start()
    unfinished = len(jobs)
    while unfinished:
        try:
            event = events.get(timeout=POLL)
        except queue.Empty:
            yield None
            continue
        unfinished -= not event.started
        yield event


def _serve(
    waiting: queue.SimpleQueue[Job],
    report: Callable[[Event], None],
    out: Path,
    device: str | None,
    processes: int,
) -> None:
    """Run jobs one after the other in a worker process; a worker that died is replaced."""
    worker: subprocess.Popen[str] | None = None
    while True:
        try:
            job = waiting.get_nowait()
        except queue.Empty:
            break
        report(Event(job, started=True))
        if worker is None or worker.poll() is not None:
            worker = _start_worker(processes)
        report(Event(job, started=False, error=_run(worker, job, out, device)))
    if worker is not None and worker.stdin is not None:
        worker.stdin.close()
        worker.wait()


def _start_worker(processes: int) -> subprocess.Popen[str]:
    """Start a worker, with its share of the cores unless OMP_NUM_THREADS is set."""
    threads = str(max(1, (os.cpu_count() or 1) // processes))
    return subprocess.Popen(
        [sys.executable, "-m", "clipalign.commands.sweep.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"OMP_NUM_THREADS": threads, **os.environ},
    )


def _run(worker: subprocess.Popen[str], job: Job, out: Path, device: str | None) -> str | None:
    """Run a job in a worker; return what went wrong, or None."""
    assert worker.stdin is not None and worker.stdout is not None
    folder = RunFolder(out / job.name)
    options = {name: plain(value) for name, value in job.values(out).items()}
    if device is not None:
        options["device"] = device
    if folder.config.is_file():
        options["resume"] = True
    elif folder.path.is_dir() and all(path.name.startswith(".") for path in folder.path.iterdir()):
        shutil.rmtree(folder.path)  # killed before it had written a file; only temporary files are left
    task: Task = {"name": job.name, "options": options, "log": str(out / LOGS / f"{job.name}.txt")}
    answer = ""
    try:
        worker.stdin.write(json.dumps(task) + "\n")
        worker.stdin.flush()
        answer = worker.stdout.readline()
    except OSError:  # the worker died between two runs
        pass
    if not answer:
        status = worker.wait()
        return f"its process ended with status {status} (killed, or out of memory?); log: {task['log']}"
    error: str | None = json.loads(answer)["error"]
    return error
