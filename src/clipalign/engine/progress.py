"""What a run says while it goes: a bar on a terminal, plain lines elsewhere, and a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Reporter:
    """Talks for one process; the silent ones do nothing.

    Args:
        talks: whether this process talks (the first one).
        log: file that gets every line, or None.
    """

    def __init__(self, talks: bool = True, log: Path | None = None) -> None:
        self.talks = talks
        self.log = log
        self.console = Console(file=sys.stderr, soft_wrap=True, highlight=False)
        self._handler = _Handler(self)
        self._bar: Progress | None = None
        self._plain_at = 0.0

    def say(self, line: str) -> None:
        """A line for the reader."""
        if self.talks:
            self.console.print(line, markup=False)
            self._write(line)

    def result(self, line: str) -> None:
        """A line that is what the command was run for: to standard output."""
        if self.talks:
            print(line, flush=True)
            self._write(line)

    def start(self, total: int, done: int) -> None:
        """Begin `total` steps, of which `done` are behind us."""
        if self.talks and self.console.is_terminal:
            columns = (
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.description}"),
            )
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._bar.start()
            self._task = self._bar.add_task("", total=total, completed=done)

    def step(self, step: int, total: int, line: Mapping[str, Any] | None) -> None:
        """After a step; `line` is its entry of metrics.jsonl, if it has one."""
        if not self.talks:
            return
        text = "" if line is None else summary(line)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=text or None)
        # A log file of a long run should not hold thousands of lines: one every few seconds is enough to
        # follow it.
        elif text and (step == total or "validation" in text or time.monotonic() - self._plain_at > 5):
            self._plain_at = time.monotonic()
            self.console.print(f"step {step}/{total}  {text}", markup=False)
        if text:
            self._write(f"step {step}/{total}  {text}")

    def stop(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __enter__(self) -> Reporter:
        logging.getLogger("clipalign").addHandler(self._handler)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        logging.getLogger("clipalign").removeHandler(self._handler)

    def _write(self, line: str) -> None:
        if self.log is not None and self.talks:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(line + "\n")


class _Handler(logging.Handler):
    """Passes the package's warnings to a reporter while it is at work."""

    def __init__(self, reporter: Reporter) -> None:
        super().__init__(logging.WARNING)
        self.reporter = reporter

    def emit(self, record: logging.LogRecord) -> None:
        self.reporter.say(f"{record.levelname.lower()}: {record.getMessage()}")


def summary(line: Mapping[str, Any]) -> str:
    """The part of a metrics line that fits beside a bar."""
    parts = [
        f"{name.removeprefix('loss_')} {value:.4g}"
        for name, value in line.items()
        if name.startswith("loss") and value is not None
    ]
    for name in ("validation_accuracy", "validation_recall"):
        if name in line:
            parts.append(f"{name.replace('_', ' ')} {100 * line[name]:.1f} %")
    if "lr" in line:
        parts.append(f"lr {line['lr']:.2g}")
    if "images_per_second" in line:
        parts.append(f"{line['images_per_second']:.0f} images/s")
    return "  ".join(parts)
