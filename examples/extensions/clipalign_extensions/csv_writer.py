"""A tracker: all values in one CSV file of step, tag and value."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipalign.engine.writers import WRITERS, Writer


@WRITERS.register("csv")
class CsvWriter(Writer):
    """values.csv in the run folder. A resumed run writes it again, from the lines that the run keeps."""

    def __init__(self, folder: Path, options: Mapping[str, Any]) -> None:
        self.file = (folder / "values.csv").open("w", encoding="utf-8", newline="")
        self.lines = csv.writer(self.file)
        self.lines.writerow(["step", "tag", "value"])

    def add(self, values: Mapping[str, float], step: int) -> None:
        self.lines.writerows([step, tag, value] for tag, value in values.items())

    def close(self, failed: bool) -> None:
        self.file.close()
