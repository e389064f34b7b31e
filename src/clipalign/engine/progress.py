"""Progress of a run: a bar in a terminal or a notebook, plain lines otherwise, and a log file."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import Progress

from ..core.progress import new_bar, shows_bars

LOG_INTERVAL = 5  # seconds between lines of training progress outside a terminal


class Reporter:
    """Prints the output of one process, and copies the package's log records to it.

    Args:
        enabled: False for all processes but the main one; nothing is printed then.
        log: file that receives every line, or None.
    """

    def __init__(self, enabled: bool = True, log: Path | None = None) -> None:
        self.enabled = enabled
        self.log = log
        self.console = Console(file=sys.stderr, soft_wrap=True, highlight=False)
        self._handler = _Handler(self)
        self._bar: Progress | None = None
        self._last_line = 0.0

    def info(self, line: str) -> None:
        """Print a line to standard error."""
        if self.enabled:
            self.console.print(line, markup=False)
            self._write(line)

    def result(self, line: str) -> None:
        """Print a line to standard output: the result of the command."""
        if self.enabled:
            print(line, flush=True)
            self._write(line)

    def start(self, total: int, done: int) -> None:
        """Start the bar of `total` steps, `done` of them already completed."""
        if self.enabled and shows_bars(self.console):
            self._bar = new_bar(self.console)
            self._bar.start()
            self._task = self._bar.add_task("", total=total, completed=done)

    def step(self, step: int, total: int, line: Mapping[str, Any] | None) -> None:
        """Show a completed step; `line` is its line of metrics.jsonl, if any."""
        if not self.enabled:
            return
        text = "" if line is None else summary(line)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=text or None)
        # Rate-limited: the captured output of a long run should not have thousands of lines.
        elif text and (
            step == total or "validation" in text or time.monotonic() - self._last_line > LOG_INTERVAL
        ):
            self._last_line = time.monotonic()
            self.console.print(f"step {step}/{total}  {text}", markup=False)
        if text:
            self._write(f"step {step}/{total}  {text}")

    def stop(self) -> None:
        """Remove the bar."""
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
        if self.log is not None and self.enabled:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(line + "\n")


class _Handler(logging.Handler):
    """Prints warnings of the package through a reporter."""

    def __init__(self, reporter: Reporter) -> None:
        super().__init__(logging.WARNING)
        self.reporter = reporter

    def emit(self, record: logging.LogRecord) -> None:
        self.reporter.info(f"{record.levelname.lower()}: {record.getMessage()}")


def summary(line: Mapping[str, Any]) -> str:
    """Return the part of a metrics line that fits next to a bar."""
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
