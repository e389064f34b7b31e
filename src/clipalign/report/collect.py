"""Finds runs under a folder and reads what they wrote."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..core.errors import UserError
from ..core.yaml_files import read_yaml
from ..runs.folder import RESULT_NEUTRAL, RunFolder
from ..runs.results import FILE, ResultRow, read_results
from .tables import order_labels

# Options that are a row's own fields, or decide nothing about its number beside other seeds of the same line.
NOT_SETTINGS = RESULT_NEUTRAL | {"method", "data", "protocol", "target", "backbone", "seed"}


@dataclass(frozen=True)
class Found:
    """A folder with results: a run of `clipalign train`, or what `clipalign eval` wrote.

    Attributes:
        name: its path below the folder that was searched; "." for that folder itself.
        folder: its files.
        results: its rows.
    """

    name: str
    folder: RunFolder
    results: tuple[ResultRow, ...]

    @cached_property
    def options(self) -> dict[str, Any]:
        """Options by name; empty where only an evaluation was written."""
        return read_yaml(self.folder.config) if self.folder.config.is_file() else {}

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """Lines of its metrics, by step."""
        return self.folder.read_metrics()

    @property
    def command(self) -> str:
        """What to type to get its rows again."""
        return next((row.command for row in self.results if row.command), "")

    @property
    def method(self) -> str:
        """Of its rows."""
        return self.results[0].method

    def rows(self) -> list[dict[str, Any]]:
        """Fields for `make_tables`: those of the rows, the folder's name, and the settings of the run."""
        settings = {k: v for k, v in self.options.items() if k not in NOT_SETTINGS}
        return [row.as_dict() | {"run": self.name, "settings": settings} for row in self.results]


def find_runs(folder: Path) -> list[Found]:
    """All finished runs and evaluations in a folder and below it: baselines first, then by method and path.

    Raises:
        UserError: no such folder, or none with results in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give one that holds runs")
    found = []
    for path in sorted(folder.rglob(FILE)):
        if rows := read_results(path):
            name = path.parent.relative_to(folder).as_posix()
            found.append(Found(name, RunFolder(path.parent), tuple(rows)))
    if not found:
        raise UserError(
            f"no finished run in {folder} (no {FILE} in it or below); train or eval into it first"
        )
    order = order_labels(run.method for run in found)
    return sorted(found, key=lambda run: order.index(run.method))
