"""`clipalign report`: tables, curves and pictures of runs, as Markdown and HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..core.checkpoint import write_text
from ..core.config import Options, facts
from ..core.parsing import make_config, parse_config
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


@dataclass(frozen=True)
class ReportConfig(Options):
    """Write tables, curves and pictures of all runs in a folder."""

    folder: Path = field(metadata=facts(positional=True))
    """Folder that holds runs, at any depth."""
    out: Path | None = field(default=None, metadata=facts(unit="DIR", unset="FOLDER/report"))
    """Folder of the report. Gets report.md, report.html, tables.csv, differences.csv and pictures. Must be new or empty
    without --overwrite."""
    baseline: str | None = field(default=None, metadata=facts(unit="NAME", unset="erm, or zeroshot"))
    """Method or table row that others are compared with."""
    title: str = field(default="Fine-tuning report", metadata=facts(unit="TEXT"))
    """First heading."""
    pictures: int = field(default=6, metadata=facts(unit="COUNT", at_least=0))
    """Test images with maps; 0: none. Each is drawn before and after training; 0 opens no model."""
    overwrite: bool = False
    """Replace the report in --out."""


@dataclass(frozen=True)
class Report:
    """Files of a report."""

    markdown: Path
    html: Path
    csv: Path
    differences: Path


def write_report(
    folder: str | Path,
    out: str | Path | None = None,
    *,
    baseline: str | None = None,
    title: str = "Fine-tuning report",
    pictures: int = 6,
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
    files = Report(out / "report.md", out / "report.html", out / "tables.csv", out / "differences.csv")
    write_text(files.markdown, markdown(config.title, parts, out))
    write_text(files.html, html(config.title, parts))
    write_text(files.csv, to_csv([*tables, *recalls]))
    write_text(files.differences, differences_csv(found))
    return files
