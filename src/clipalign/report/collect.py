"""Finished runs and evaluations below a folder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..core.errors import UserError
from ..core.reading import load_yaml
from ..core.yaml_files import RECORD, read_yaml
from ..evaluation.results import FILE, ResultRow, read_results
from ..runs.folder import RESULT_NEUTRAL, MetricLine, RunFolder
from ..runs.record import check_types, read_record
from .rows import ReportRow, is_retrieval, order_labels

# Options that are fields of a row already, or that distinguish seeds of one table line.
NOT_SETTINGS = RESULT_NEUTRAL | {"method", "data", "protocol", "target", "backbone", "seed"}


@dataclass(frozen=True)
class StoredRun:
    """A folder with results, written by `clipalign train` or `clipalign eval`.

    Attributes:
        name: path relative to the searched folder; "." for that folder itself.
        folder: files of the run.
        results: result rows.
    """

    name: str
    folder: RunFolder
    results: tuple[ResultRow, ...]

    @cached_property
    def options(self) -> dict[str, Any]:
        """Options by name; empty for an evaluation."""
        return read_yaml(self.folder.config) if self.folder.config.is_file() else {}

    @cached_property
    def metrics(self) -> list[MetricLine]:
        """Lines of metrics.jsonl, by step."""
        return self.folder.read_metrics()

    @property
    def command(self) -> str:
        """Command that reproduces the rows; empty if unknown."""
        return next((row.command for row in self.results if row.command), "")

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.results[0].method

    @property
    def retrieval(self) -> bool:
        """Whether the rows hold recalls instead of accuracies."""
        return is_retrieval(self.rows()[0])

    def rows(self) -> list[ReportRow]:
        """Return the result rows with the run's name and settings."""
        settings = {name: value for name, value in self.options.items() if name not in NOT_SETTINGS}
        return [ReportRow(row, self.name, settings) for row in self.results]


def check_config(path: Path) -> None:
    """Raise UserError for a damaged config.yaml; a report needs no complete record."""
    content = load_yaml(path)
    if not isinstance(content, dict) or not isinstance(content.get(RECORD, {}), dict):
        read_record(path)  # names what is wrong
    else:
        check_types(content.get(RECORD, {}), str(path))


def find_runs(folder: Path) -> list[StoredRun]:
    """Return all finished runs and evaluations in a folder and below: baselines first, then by method and path.

    Raises:
        UserError: the folder does not exist, or holds no results, or a run's files are damaged.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; name a folder that holds runs")
    runs = []
    for path in sorted(folder.rglob(FILE)):
        if rows := read_results(path):
            name = path.parent.relative_to(folder).as_posix()
            run = RunFolder(path.parent)
            if run.config.is_file():
                check_config(run.config)  # before any file of a report is written
            runs.append(StoredRun(name, run, tuple(rows)))
    if not runs:
        raise UserError(
            f"no finished run in {folder} (no {FILE} in it or below); run clipalign train or eval into it first"
        )
    order = order_labels(run.method for run in runs)
    return sorted(runs, key=lambda run: order.index(run.method))
