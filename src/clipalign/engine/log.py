"""The log of a training run: metrics.jsonl, trackers, and progress on the terminal."""

from __future__ import annotations

import json

from ..core.checkpoint import write_text
from ..runs.folder import MetricLine, RunFolder
from .progress import Reporter
from .writers import Writers


class RunLog:
    """Passes metrics of a run to metrics.jsonl, to trackers and to the terminal.

    Args:
        folder: run folder with metrics.jsonl.
        reporter: prints progress.
        writers: trackers; default: none.
        is_main: False for all processes but the main one, which do not write.
    """

    def __init__(
        self, folder: RunFolder, reporter: Reporter, writers: Writers | None = None, is_main: bool = True
    ) -> None:
        self.folder, self.reporter, self.writers = folder, reporter, writers or Writers()
        self.is_main = is_main

    def start(self, first: int, total: int) -> None:
        """Start or resume after `first` of `total` steps: drop the lines that are about to be written again."""
        if self.is_main:
            lines = [
                line
                for line in self.folder.read_metrics()
                if line["step"] <= first and "chosen" not in line  # `Method.finish` will choose again
            ]
            write_text(self.folder.metrics, "".join(json.dumps(line) + "\n" for line in lines))
            self.writers.replay(lines)
        self.reporter.start(total, first)

    def write(self, line: MetricLine) -> None:
        """Append a line to metrics.jsonl, and pass it to the trackers."""
        if self.is_main:
            with self.folder.metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            self.writers.line(line)

    def step(self, step: int, total: int, line: MetricLine | None) -> None:
        """Log a completed step; `line` holds its metrics, or is None if it is not logged."""
        if line is not None:
            self.write(line)
        self.reporter.step(step, total, line)

    def info(self, message: str) -> None:
        """Print a message."""
        self.reporter.info(message)

    def stop(self) -> None:
        """Remove the progress bar."""
        self.reporter.stop()
