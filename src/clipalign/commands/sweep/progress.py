"""Progress of a sweep: a live table on a terminal, otherwise one line per finished run."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table as RichTable
from rich.text import Text

from ...evaluation.metrics import headline
from ...evaluation.results import read_results
from ...runs.folder import RunFolder
from .pool import Event
from .study import Job

TAIL = 4000  # bytes at the end of metrics.jsonl that hold its last line


class Progress:
    """Shows the state of all runs of a study; a context manager.

    Args:
        jobs: all runs, finished ones included.
        out: folder of the study.

    Attributes:
        scores: name of a finished run -> its score in [0, 1]; None if it has no accuracy.
        failed: name of a failed run -> what went wrong.
        started: name of a running run -> when it was started, in seconds.
    """

    def __init__(self, jobs: Sequence[Job], out: Path) -> None:
        self.jobs, self.out = jobs, out
        self.scores = {job.name: _score(out / job.name) for job in jobs if RunFolder(out / job.name).done}
        self.failed: dict[str, str] = {}
        self.started: dict[str, float] = {}
        self.console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
        self.live: Live | None = None

    def __enter__(self) -> Progress:
        self.console.print(f"{len(self.jobs)} runs, {len(self.scores)} of them done", markup=False)
        if self.console.is_terminal:
            self.live = Live(self.table(), console=self.console, refresh_per_second=2)
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.update(self.table())
            self.live.stop()

    def update(self, event: Event | None) -> None:
        """Record an event and refresh the table; None refreshes only."""
        if event is not None and event.started:
            self.started[event.job.name] = time.monotonic()
        elif event is not None:
            self._finish(event)
        if self.live is not None:
            self.live.update(self.table())

    def _finish(self, event: Event) -> None:
        name = event.job.name
        seconds = time.monotonic() - self.started.pop(name)
        if event.error is None:
            self.scores[name] = score = _score(self.out / name)
            outcome = "not scored" if score is None else f"{100 * score:.1f} %"
            message = f"{name}: {outcome} ({seconds:.0f} s)"
        else:
            self.failed[name] = event.error
            message = f"{name}: failed: {event.error}"
        if self.live is None:
            count = len(self.scores) + len(self.failed)
            self.console.print(f"[{count}/{len(self.jobs)}] {message}", markup=False)

    def table(self) -> Group:
        """Return a table of finished seeds and mean scores, tasks by methods; then running and failed runs."""
        methods = list(dict.fromkeys(job.label for job in self.jobs))
        table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("")
        for method in methods:
            table.add_column(method, justify="right")
        for task in dict.fromkeys(job.task for job in self.jobs):
            table.add_row(Text(task), *(self._cell(task, method) for method in methods))
        running = [Text(f"  {name}  {_last_step(self.out / name)}", style="dim") for name in self.started]
        failed = [Text(f"  {name}: {error}", style="red") for name, error in self.failed.items()]
        return Group(table, *running, *failed)

    def _cell(self, task: str, method: str) -> str:
        names = [job.name for job in self.jobs if (job.task, job.label) == (task, method)]
        done = [self.scores[name] for name in names if name in self.scores]
        scored = [score for score in done if score is not None]
        mean = f"  {100 * statistics.fmean(scored):.1f} %" if scored else ""
        return f"{len(done)}/{len(names)}{mean}" if names else ""


def _score(folder: Path) -> float | None:
    """Return the first headline metric of the first test set."""
    rows = read_results(folder)
    values = headline(rows[0]) if rows else []
    return values[0][1] if values else None


def _last_step(folder: Path) -> str:
    """Describe the progress of a run by the last line of its metrics."""
    path = RunFolder(folder).metrics
    if not path.is_file():
        return "starting"
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL))
        lines = [line for line in file.read().splitlines(keepends=True) if line.endswith(b"\n")]
    try:
        return f"step {json.loads(lines[-1])['step']}"
    except (IndexError, ValueError, KeyError):
        return "running"
