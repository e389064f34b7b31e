"""Export the rows of finished studies as CSV, and print the tables of their write-up as Markdown.

    python tools/export_study.py runs/pictograms --out docs/studies/data/pictograms.csv

Rows of earlier exports that the given folders do not contain are kept, so that parts of a study can be run on several
machines, or one after the other.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import tyro

from clipalign.core.checkpoint import write_text
from clipalign.report.collect import StoredRun, find_runs
from clipalign.report.comparison import MEAN, differences

KEYS = ("method", "data", "protocol", "target", "test", "seed")
HEADS = (*KEYS, "n", "accuracy", "h", "steps", "lr", "recipe", "split")

Row = dict[str, str]


@dataclass
class ExportConfig:
    """Export rows and print tables.

    Attributes:
        folders: folders of `clipalign sweep`.
        out: CSV file to extend.
        baseline: table line that differences refer to.
        targets: targets of the tables; default: all.
    """

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional]
    out: Path
    baseline: str = "erm"
    targets: tuple[str, ...] = ()


class StudyRun(StoredRun):
    """A run that is labelled as the study file names it, instead of by its method and options."""

    @property
    def options(self) -> dict[str, Any]:  # type: ignore[override]
        """No options, which a label would list."""
        return {}


def study_run(run: StoredRun) -> StudyRun:
    """Return a run in DATA/PROTOCOL/TARGET/NAME/SEED with the method NAME."""
    label = run.folder.path.parent.name
    return StudyRun(
        run.name, run.folder, tuple(replace(row, method=label, average=None) for row in run.results)
    )


def rows(runs: Iterable[StoredRun]) -> list[Row]:
    """Return one row per run and test set, as text."""
    found = []
    for run in runs:
        data = run.folder.path.parents[3].name
        for result in run.results:
            h = "" if result.h is None else f"{result.h:.5f}"
            values = (
                result.method,
                data,
                result.protocol,
                result.target or "",
                result.test,
                result.seed,
                result.n,
            )
            facts = (
                f"{result.accuracy:.5f}",
                h,
                result.steps,
                result.lr,
                result.recipe,
                result.split_hash[:12],
            )
            cells = ("" if value is None else str(value) for value in (*values, *facts))
            found.append(dict(zip(HEADS, cells, strict=True)))
    return found


def merge(path: Path, new: Sequence[Row]) -> list[Row]:
    """Return the rows of a CSV file, replaced and extended by new ones, sorted by key."""
    merged: dict[tuple[str, ...], Row] = {}
    if path.is_file():
        for row in csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))):
            merged[tuple(row[key] for key in KEYS)] = row
    for row in new:
        merged[tuple(row[key] for key in KEYS)] = row
    return [merged[key] for key in sorted(merged)]


def complete_targets(all_rows: Sequence[Row], data: str, protocol: str) -> tuple[list[str], list[str]]:
    """Return the targets that at least half of the methods have, and the methods that have all of those."""
    targets: dict[str, set[str]] = defaultdict(set)
    for row in all_rows:
        if (row["data"], row["protocol"]) == (data, protocol):
            targets[row["method"]].add(row["target"])
    every = set.union(*targets.values())
    common = {t for t in every if 2 * sum(t in of for of in targets.values()) >= len(targets)}
    return sorted(common), [method for method, of in targets.items() if common <= of]


def table(all_rows: Sequence[Row], data: str, protocol: str) -> str:
    """Return accuracies in percent, mean over the complete targets, ± over seeds."""
    common, methods = complete_targets(all_rows, data, protocol)
    kept = [r for r in all_rows if (r["data"], r["protocol"]) == (data, protocol)]
    tests = list(dict.fromkeys(r["test"] for r in kept))
    lines = [f"{data}, {protocol}: {', '.join(common) or 'no target'}", ""]
    lines += ["| method | " + " | ".join([*tests, "h"]) + " | seeds |", "|---" * (len(tests) + 3) + "|"]
    for method in methods:
        of = [r for r in kept if r["method"] == method and r["target"] in common]
        seeds = sorted({r["seed"] for r in of})
        cells = [
            _cell([_mean(r["accuracy"] for r in of if r["test"] == t and r["seed"] == s) for s in seeds])
            for t in tests
        ]
        h = [_mean(r["h"] for r in of if r["test"] == tests[0] and r["seed"] == s and r["h"]) for s in seeds]
        lines.append(f"| `{method}` | " + " | ".join([*cells, _cell(h)]) + f" | {len(seeds)} |")
    return "\n".join(lines)


def difference_table(all_rows: Sequence[Row], runs: Sequence[StoredRun], baseline: str) -> str:
    """Return paired differences to the baseline, mean over the complete targets, with intervals over concepts."""
    lines = [
        "| protocol | test | method | difference | 95 % interval | detectable |",
        "|---|---|---|---|---|---|",
    ]
    for data, protocol in dict.fromkeys((r["data"], r["protocol"]) for r in all_rows):
        targets, methods = complete_targets(all_rows, data, protocol)
        kept = [
            run
            for run in runs
            if run.results[0].protocol == protocol
            and run.method in methods
            and (run.results[0].target or "") in targets
        ]
        for d in differences(kept, baseline):
            if d.target in (MEAN, ""):
                e = d.estimate
                interval = f"{100 * e.low:+.1f} to {100 * e.high:+.1f}"
                cells = (
                    protocol,
                    d.test,
                    f"`{d.label}`",
                    f"{100 * e.value:+.1f}",
                    interval,
                    f"{100 * e.detectable:.1f}",
                )
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _mean(values: Iterable[str]) -> float:
    numbers = [float(value) for value in values]
    return mean(numbers) if numbers else float("nan")


def _cell(values: Sequence[float]) -> str:
    text = f"{100 * mean(values):.1f}"
    return text if len(values) < 2 else f"{text} ± {100 * stdev(values):.1f}"


def main(config: ExportConfig) -> None:
    """Write the CSV file, and print the tables."""
    runs = [study_run(run) for folder in config.folders for run in find_runs(folder)]
    all_rows = merge(config.out, rows(runs))
    text = io.StringIO()
    writer = csv.DictWriter(text, HEADS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(all_rows)
    config.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(config.out, text.getvalue())
    shown = [row for row in all_rows if not config.targets or row["target"] in config.targets]
    for data, protocol in dict.fromkeys((r["data"], r["protocol"]) for r in shown):
        print(table(shown, data, protocol), end="\n\n")
    print(difference_table(shown, runs, config.baseline))


if __name__ == "__main__":
    main(tyro.cli(ExportConfig))
