"""`clipalign report`: what runs did, as report.md and report.html."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from ..core.checkpoint import write_text
from ..core.config import at_least
from ..report.accuracy import accuracy_tables
from ..report.collect import find_runs
from ..report.comparison import differences, differences_csv
from ..report.html import to_html
from ..report.markdown import to_markdown
from ..report.pictures import picture_section
from ..report.plots import plots
from ..report.published import published_accuracy_section, published_recall_section
from ..report.render import print_tables, tables_csv
from ..report.retrieval import recall_rows_section, recall_section, recall_tables
from ..report.rows import is_retrieval
from ..report.sections import (
    accuracy_section,
    caveat_section,
    command_section,
    curve_section,
    difference_section,
    forgetting_section,
    row_section,
    summary,
)
from ..report.style import report_styles
from ..report.tables import all_tables
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
    accuracy_rows = [row for row in rows if not is_retrieval(row)]
    accuracies, recalls = accuracy_tables(rows), recall_tables(rows)
    figures, styles = out / "pictures", report_styles(rows)
    found = differences(runs, config.baseline)
    parts = [
        *summary(runs),
        *accuracy_section(accuracies),
        *recall_section(recalls),
        *difference_section(found),
        *published_accuracy_section(accuracy_rows),
        *published_recall_section(rows),
        *plots(runs, figures, styles),
        *forgetting_section(rows),
        *curve_section(runs, figures, styles),
        *picture_section([run for run in runs if not run.retrieval], figures, config.pictures),
        *row_section(accuracy_rows),
        *recall_rows_section(rows),
        *command_section(runs),
        *caveat_section(rows),
    ]
    out.mkdir(parents=True, exist_ok=True)
    report = Report(out / "report.md", out / "report.html", out / "tables.csv", out / "differences.csv")
    write_text(report.markdown, to_markdown(config.title, parts, out))
    write_text(report.html, to_html(config.title, parts))
    write_text(report.csv, tables_csv([*accuracies, *recalls]))
    write_text(report.differences, differences_csv(found))
    return report
