"""What a sweep shows while it goes: one live table on a terminal, a line per run elsewhere."""

from __future__ import annotations

import json
import statistics
import sys
import time
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
    """Follows the runs of a study.

    Args:
        jobs: all of them.
        out: folder of the study.
    """

    def __init__(self, jobs: list[Job], out: Path) -> None:
        self.jobs, self.out = jobs, out
        self.headline = {job.name: _headline(out / job.name) for job in jobs if _done(out / job.name)}
        self.before = len(self.headline)
        self.failed: dict[str, str] = {}
        self.running: dict[str, float] = {}
        self.console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
        self.live: Live | None = None

    def __enter__(self) -> Progress:
        line = f"{len(self.jobs)} runs, {self.before} of them done"
        self.console.print(line, markup=False)
        if self.console.is_terminal:
            self.live = Live(self.table(), console=self.console, refresh_per_second=2)
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.update(self.table())
            self.live.stop()

    def follow(self, event: Event | None) -> None:
        """Take note of an event."""
        if event is not None and event.started:
            self.running[event.job.name] = time.monotonic()
        elif event is not None:
            self._ended(event)
        if self.live is not None:
            self.live.update(self.table())

    def _ended(self, event: Event) -> None:
        name = event.job.name
        seconds = time.monotonic() - self.running.pop(name)
        if event.error is None:
            self.headline[name] = _headline(self.out / name)
            said = f"{name}: {_percent(self.headline[name])} ({seconds:.0f} s)"
        else:
            self.failed[name] = event.error
            said = f"{name}: failed: {event.error}"
        if self.live is None:
            count = len(self.headline) + len(self.failed)
            self.console.print(f"[{count}/{len(self.jobs)}] {said}", markup=False)

    def table(self) -> Group:
        """Places down, methods across: seeds done and the mean of their headline. Below: what runs and what failed."""
        methods = list(dict.fromkeys(_variant(job) for job in self.jobs))
        places = list(dict.fromkeys(_place(job) for job in self.jobs))
        table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("")
        for method in methods:
            table.add_column(method, justify="right")
        for place in places:
            cells = []
            for method in methods:
                mine = [job.name for job in self.jobs if _place(job) == place and _variant(job) == method]
                done = [self.headline[name] for name in mine if name in self.headline]
                known = [value for value in done if value is not None]
                mean = f"  {100 * statistics.fmean(known):.1f} %" if known else ""
                cells.append(f"{len(done)}/{len(mine)}{mean}" if mine else "")
            table.add_row(Text(place), *cells)
        running = [Text(f"  {name}  {_step(self.out / name)}", style="dim") for name in self.running]
        failed = [Text(f"  {name}: {error}", style="red") for name, error in self.failed.items()]
        return Group(table, *running, *failed)


def _place(job: Job) -> str:
    return f"{job.data}, {job.protocol}" + (f", {job.target}" if job.target else "")


def _variant(job: Job) -> str:
    return job.name.split("/")[-2]


def _done(folder: Path) -> bool:
    return RunFolder(folder).done


def _headline(folder: Path) -> float | None:
    """Return the first headline of the first test set."""
    rows = read_results(folder)
    values = headline(rows[0]) if rows else []
    return values[0][1] if values else None


def _percent(value: float | None) -> str:
    return "not scored" if value is None else f"{100 * value:.1f} %"


def _step(folder: Path) -> str:
    """The last step a run has written down."""
    path = RunFolder(folder).metrics
    if not path.is_file():
        return "starts"
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL))
        lines = [line for line in file.read().splitlines(keepends=True) if line.endswith(b"\n")]
    try:
        return f"step {json.loads(lines[-1])['step']}"
    except (IndexError, ValueError, KeyError):
        return "runs"
