"""`clipalign report`: tables, curves and pictures of runs, as Markdown and HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.checkpoint import write_text
from ..core.parsing import make_config, parse_config
from ..report.accuracy import accuracy_tables
from ..report.class_section import class_section
from ..report.class_table import classes_csv
from ..report.collect import find_runs
from ..report.comparison import differences, differences_csv
from ..report.html import to_html
from ..report.markdown import to_markdown
from ..report.metric_table import beyond_section, beyond_tables, metric_section, metric_tables
from ..report.pictures import picture_section
from ..report.plots import plots
from ..report.published import published_sections
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
from .options import ReportConfig


@dataclass(frozen=True)
class Report:
    """Files of a report."""

    markdown: Path
    html: Path
    csv: Path
    differences: Path
    classes: Path


def write_report(
    folder: str | Path,
    out: str | Path | None = None,
    *,
    baseline: str | None = None,
    title: str = "Fine-tuning report",
    pictures: int = 6,
    sharpness: Sequence[float] = (),
    overwrite: bool = False,
) -> Report:
    """Write a report of all runs in a folder, as `clipalign report` does.

    Args:
        folder: holds runs, at any depth.
        out: folder of the report; default: "report" in `folder`.

    The keywords are the options of the command line; see `ReportConfig`.

    Raises:
        UserError: no runs, or a folder in use; nothing has been written then.
    """
    return report(make_config(ReportConfig, locals()))


def run_report(tokens: Sequence[str], prog: str = "clipalign report") -> Report:
    """Write a report as a command line says, and print the tables and the files written."""
    config = parse_config(ReportConfig, tokens, prog)
    written = report(config)
    print_tables(all_tables(row for run in find_runs(config.folder) for row in run.rows()))
    print(f"\n{written.markdown}\n{written.html}")
    return written


def report(config: ReportConfig) -> Report:
    """Write a report; returns its files."""
    out = config.out or config.folder / "report"
    check_out(out, overwrite=config.overwrite)
    runs = find_runs(config.folder)
    rows = [row for run in runs for row in run.rows()]
    accuracy_rows = [row for row in rows if not is_retrieval(row)]
    accuracies, further, recalls = accuracy_tables(rows), metric_tables(rows), recall_tables(rows)
    beyond = beyond_tables(rows)
    figures, styles = out / "pictures", report_styles(rows)
    found = differences(runs, config.baseline)
    pictured = [run for run in runs if not run.retrieval]
    classes = class_section(pictured, figures, styles, config.baseline, config.pictures, config.sharpness)
    parts = [
        *summary(runs),
        *accuracy_section(accuracies),
        *metric_section(further),
        *beyond_section(beyond),
        *recall_section(recalls),
        *difference_section(found),
        *published_sections(rows),
        *plots(runs, figures, styles),
        *classes.parts,
        *forgetting_section(rows),
        *curve_section(runs, figures, styles),
        *picture_section(pictured, figures, config.pictures),
        *row_section(accuracy_rows),
        *recall_rows_section(rows),
        *command_section(runs),
        *caveat_section(rows),
    ]
    out.mkdir(parents=True, exist_ok=True)
    names = ("report.md", "report.html", "tables.csv", "differences.csv", "classes.csv")
    files = Report(*(out / name for name in names))
    write_text(files.markdown, to_markdown(config.title, parts, out))
    write_text(files.html, to_html(config.title, parts))
    write_text(files.csv, tables_csv([*accuracies, *further, *beyond, *recalls]))
    write_text(files.differences, differences_csv(found))
    write_text(files.classes, classes_csv(classes.tables))
    return files
