"""`clipalign reproduce`: run the study of a published table, and compare it with the publication cell by cell."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from ...core.checkpoint import write_text
from ...core.errors import UserError
from ...core.parsing import parse_config
from ...core.yaml_files import dump_yaml
from ...evaluation.results import FILE
from ...protocols import RETRIEVAL
from ...report.collect import find_runs
from ...report.html import to_html
from ...report.markdown import to_markdown
from ...report.measurements import measurements
from ...report.verdicts import (
    ComparedCell,
    cells_csv,
    compare_cells,
    on_other_data,
    other_images,
    verdict_sections,
)
from ..eval import evaluate
from ..study_options import ReproduceConfig
from ..sweep import sweep
from ..sweep.study import Job, read_study
from .figure import figure_sections
from .paper import Paper, adapted_study, claims_of, list_papers, read_paper, replaced_options

RUNS, EVALUATIONS = "runs", "evaluations"


@dataclass(frozen=True)
class Reproduction:
    """Outcome of a reproduction.

    Attributes:
        out: folder of the study.
        cells: every published number with its measurement and verdict.
        failed: run or evaluation that failed -> what went wrong.
    """

    out: Path
    cells: tuple[ComparedCell, ...]
    failed: Mapping[str, str]


def run_reproduction(tokens: Sequence[str], prog: str = "clipalign reproduce") -> Reproduction | None:
    """Reproduce a table as a command line says.

    Returns:
        The outcome; None with --list or --dry-run.

    Raises:
        SystemExit: runs failed; raised after the report is written, with status 1.
    """
    config = parse_config(ReproduceConfig, tokens, prog)
    if config.list:
        print_papers()
        return None
    if config.dry_run:
        print_commands(config)
        return None
    outcome = reproduce(config)
    for cell in outcome.cells:
        print(f"{_place(cell)}: {cell.text}")
    for name, error in outcome.failed.items():
        print(f"failed: {name}: {error}")
    print(f"\n{outcome.out / 'report.md'}\n{outcome.out / 'report.html'}")
    if outcome.failed:
        raise SystemExit(1)
    return outcome


def reproduce(config: ReproduceConfig) -> Reproduction:
    """Run all runs of a table that are not finished, score them, and write the report.

    Raises:
        UserError: invalid input; nothing has been run then.
    """
    paper = read_paper(str(config.name))
    if config.data_root is None and config.data is None:
        raise UserError(f"reproduce {paper.name} needs --data-root, the folder of the published data sets")
    out = _folder(config)
    study = _write_study(paper, config, out)
    outcome = sweep(study, out / RUNS, jobs=config.jobs, devices=config.devices)
    jobs = [job for job in read_study(study) if job.name in outcome.done]
    failed = {**outcome.failed, **_evaluate_all(paper, jobs, config, out)}
    cells = _compare(paper, config, out) if outcome.done else compare_cells(paper.numbers, [])
    notes = [*paper.notes, *(f"Failed: {name}: {error}" for name, error in failed.items())]
    finished = [run for run in find_runs(out / RUNS) if not run.retrieval] if outcome.done else []
    lines = {job.label: job for job in jobs}
    paper = replace(paper, claims=claims_of(paper, config.data))
    drawn = figure_sections(paper, finished, out / "pictures", lines)
    parts = [*drawn, *verdict_sections(paper.title, cells, notes)]
    write_text(out / "report.md", to_markdown(paper.title, parts, out))
    write_text(out / "report.html", to_html(paper.title, parts))
    write_text(out / "cells.csv", cells_csv(cells))
    return Reproduction(out, tuple(cells), failed)


def print_papers() -> None:
    """Print the names of all tables, with their titles and numbers of published cells."""
    names = list_papers()
    width = max(map(len, names))
    for name in names:
        paper = read_paper(name)
        print(f"{name:{width}}  {paper.title} ({len(paper.numbers)} cells)")


def print_commands(config: ReproduceConfig) -> None:
    """Print the command of every run and evaluation."""
    paper = read_paper(str(config.name))
    out = _folder(config)
    # The study needs a file; a dry run leaves none behind.
    with TemporaryDirectory() as folder:
        jobs = read_study(_write_study(paper, config, Path(folder)))
    for job in jobs:
        print(job.command(out / RUNS))
        for data in paper.evaluate if config.data is None else ():
            print(shlex.join(_evaluation(job, data, config, out)))
    print(f"# {paper.title}: {len(jobs)} runs, {len(paper.numbers)} published cells")


def _folder(config: ReproduceConfig) -> Path:
    return config.out or Path("runs", "reproduce", str(config.name))


def _write_study(paper: Paper, config: ReproduceConfig, out: Path) -> Path:
    """Write the study, which `clipalign sweep --config` runs as well, on several machines if need be."""
    path = out / "study.yaml"
    study = adapted_study(paper, config)
    out.mkdir(parents=True, exist_ok=True)
    write_text(path, dump_yaml(study))
    return path


def _evaluation(job: Job, data: str, config: ReproduceConfig, out: Path) -> list[str]:
    """Return the command that scores a run on another data set."""
    root = ["--data-root", str(config.data_root)] if config.data_root else []
    folders = [str(out / RUNS / job.name), "--out", str(out / EVALUATIONS / job.name / data)]
    return ["clipalign", "eval", *folders, "--data", data, *root, "--protocol", RETRIEVAL]


def _evaluate_all(paper: Paper, jobs: Sequence[Job], config: ReproduceConfig, out: Path) -> dict[str, str]:
    """Score all runs on the further data sets; return what failed."""
    failed = {}
    for job in jobs:
        for data in paper.evaluate if config.data is None else ():
            folder = out / EVALUATIONS / job.name / data
            if (folder / FILE).is_file():
                continue
            try:
                evaluate(
                    out / RUNS / job.name,
                    data,
                    folder,
                    data_root=config.data_root,
                    protocol=RETRIEVAL,
                    device=config.devices[0] if config.devices else "auto",
                )
            except UserError as error:
                failed[f"{job.name} on {data}"] = str(error)
    return failed


def _compare(paper: Paper, config: ReproduceConfig, out: Path) -> list[ComparedCell]:
    """Return the cells of a table, from all runs and evaluations of its folder."""
    rows = [row for run in find_runs(out) for row in run.rows()]
    found, numbers = measurements(rows), list(paper.numbers)
    changes = replaced_options(config)
    # Another backbone is a difference of the measurement itself.
    reasons = [f"{name} is {value}" for name, value in changes.items() if name != "backbone"]
    if config.data is not None:
        names = dict.fromkeys(n.data for n in numbers if not n.data.startswith("mean-of-"))
        reasons.append(f"data {config.data} instead of {', '.join(names)}")
        numbers, found = on_other_data(numbers, found, config.data)
    return compare_cells(numbers, found, reasons, other_images(rows))


def _place(cell: ComparedCell) -> str:
    """Return the cell's position in its table, and its values."""
    n, measured = cell.number, cell.measured
    parts = (n.table, n.data, n.target, n.test or n.metric, n.method, n.options)
    values = f"{measured.cell if measured else '–'} measured, {n} published"
    return f"{', '.join(filter(None, parts))}: {values}"
