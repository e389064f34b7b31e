"""The log of a run: log.jsonl, one row per line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = "log.jsonl"


def write_row(run: Path, row: dict[str, Any]) -> None:
    """Print a row and append it to the log of a run."""
    line = json.dumps(row)
    print(line, flush=True)
    with (run / FILE).open("a") as log:
        log.write(line + "\n")


def read_log(run: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's log. After an interruption, the run repeats steps: the last row of a step counts."""
    rows = [json.loads(line) for line in (run / FILE).read_text().splitlines()]
    return list({row["step"]: row for row in rows}.values())
