"""`clipalign report`: what runs did, as report.md and report.html."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from ..core.checkpoint import write_text
from ..core.config import at_least
from ..report.collect import find_runs
from ..report.document import html, markdown
from ..report.intervals import compared, plots
from ..report.published import published_beside
from ..report.render import print_tables, to_csv
from ..report.retrieval import all_tables, every_recall, recall_parts, recall_tables, recalls_beside
from ..report.sections import accuracies, caveats, commands, curves, every_row, forgotten, pictures, summary
from ..report.statistics import differences
from ..report.statistics import to_csv as differences_csv
from ..report.tables import is_retrieval, make_tables
from ..runs.folder import check_out
from ..runs.options import parse_config, to_arguments


@dataclass(frozen=True)
class ReportConfig:
    """Write tables, curves and pictures of all runs in a folder."""

    folder: Positional[Path]
    """Folder that holds runs, at any depth."""
    out: Path | None = None
    """Folder for report.md, report.html, tables.csv, differences.csv and pictures. Must be new or empty, unless
    --overwrite is given. Default: "report" in the folder of the runs."""
    baseline: str | None = None
    """Method, or line of a table, that the others are compared with. Default: erm where it is, else zeroshot."""
    title: str = "Fine-tuning report"
    """First heading."""
    pictures: int = 6
    """Test images to show with their maps, before and after; 0 shows none and opens no model."""
    overwrite: bool = False
    """Replace the report in --out."""

    def check(self) -> None:
        """Raise UserError for the first value out of range."""
        at_least(self, 0, "pictures")


@dataclass(frozen=True)
class Report:
    """Files of a report."""

    markdown: Path
    html: Path
    csv: Path
    differences: Path


def run_report(arguments: Sequence[str], prog: str = "clipalign report") -> Report:
    """Report as the tokens of a command line say, and print the tables and the files written."""
    config = parse_config(ReportConfig, arguments, prog)
    written = _run(config)
    print_tables(all_tables(row for run in find_runs(config.folder) for row in run.rows()))
    print(f"\n{written.markdown}\n{written.html}")
    return written


def write_report(folder: str | Path, out: str | Path | None = None, **options: Any) -> Report:
    """Write a report of all runs in a folder, as `clipalign report` does.

    Args:
        folder: holds runs, at any depth.
        out: folder of the report; "report" in `folder` by default.
        options: `title`, `pictures`, `overwrite` of the command line.

    Raises:
        UserError: no runs, or a non-empty `out`; nothing has been written then.
    """
    given = {"folder": folder, **({} if out is None else {"out": out}), **options}
    return _run(parse_config(ReportConfig, to_arguments(ReportConfig, given), "clipalign report"))


def _run(config: ReportConfig) -> Report:
    out = config.out or config.folder / "report"
    check_out(out, overwrite=config.overwrite)
    runs = find_runs(config.folder)
    rows = [row for run in runs for row in run.rows()]
    classes = [row for row in rows if not is_retrieval(row)]
    tables, recalls = make_tables(rows), recall_tables(rows)
    figures = out / "pictures"
    found = differences(runs, config.baseline)
    parts = [
        *summary(runs),
        *accuracies(tables),
        *recall_parts(recalls),
        *compared(found),
        *published_beside(classes),
        *recalls_beside(rows),
        *plots(runs, figures),
        *forgotten(rows),
        *curves(runs, figures),
        *pictures([run for run in runs if not is_retrieval(run.rows()[0])], figures, config.pictures),
        *every_row(classes),
        *every_recall(rows),
        *commands(runs),
        *caveats(rows),
    ]
    out.mkdir(parents=True, exist_ok=True)
    report = Report(out / "report.md", out / "report.html", out / "tables.csv", out / "differences.csv")
    write_text(report.markdown, markdown(config.title, parts, out))
    write_text(report.html, html(config.title, parts))
    write_text(report.csv, to_csv([*tables, *recalls]))
    write_text(report.differences, differences_csv(found))
    return report
