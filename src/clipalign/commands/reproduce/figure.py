"""Figures of a publication, remade from the runs of its study, with a verdict on each of its statements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from ...backbone import preprocess_for
from ...core.errors import UserError
from ...core.masked_source import MaskedSource
from ...core.types import Episode, Source
from ...data.registry import source_from
from ...evaluation.bootstrap import UnitValues, bootstrap
from ...explain.compare import Model, ViewSelection, draw_views
from ...explain.figures import save
from ...explain.maps import settings_of
from ...protocols import episode_from
from ...report.case_study import case_figure
from ...report.claims import Finding, Verdict, judge, verdict_grid
from ...report.class_section import similarity_part
from ...report.collect import StoredRun
from ...report.comparison import Hits, mean_hits, unit_of
from ...report.document import Heading, Paragraph, Part, Picture
from ...report.option_plot import Panel, Series, option_figure
from ...report.predictions import Predictions, read_predictions
from ...report.similarity import text_similarity
from ...report.structures import localisation, structure_figure, structure_maps
from ...runs.run import Run, open_run
from .paper import Paper

IMAGES = 6  # columns of maps
CASES = 2  # images of a case study
SCORED = 128  # images with masks that structures are scored on
Tasks = dict[str, dict[str, dict[str, list[Predictions]]]]  # task -> line -> target -> seeds


def figure_sections(
    paper: Paper, runs: Sequence[StoredRun], folder: Path, lines: Mapping[str, Any]
) -> list[Part]:
    """Return the figure, the statement of the publication and a verdict on each of its parts.

    Args:
        paper: figure or table with `figure` or `claims`.
        runs: finished runs of its study, named DATA/PROTOCOL/TARGET/LINE/seed-N.
        folder: folder of the PNG files.
        lines: lines of the study that was run -> their options.
    """
    if paper.figure is None and not paper.claims:
        return []
    kind = paper.figure["kind"] if paper.figure else ""
    tasks = _tasks(runs)
    draw = {"similarity": _similarity, "cases": _cases, "structures": _structures}.get(kind)
    try:
        if draw is not None:
            parts, verdicts = draw(paper, runs, folder)
        else:
            parts = _accuracies(paper, tasks, folder, lines)
            hits = {
                task: {line: _hits(task, found) for line, found in of.items()} for task, of in tasks.items()
            }
            units = {task: unit_of(task.split(",")[0]) for task in tasks}
            verdicts = [judge(claim, hits, units) for claim in paper.claims]
    except UserError as error:
        parts, verdicts = [Paragraph(f"No figure: {error}.")], []
    statement = [Paragraph(f"The paper: {paper.statement}")] if paper.statement else []
    grid = [verdict_grid(verdicts)] if verdicts else []
    return [Heading("Statement and measurement"), *statement, *parts, *grid]


def line_of(run: StoredRun) -> str:
    """Return the line of the study that a run belongs to."""
    return run.name.split("/")[-2]


def _tasks(runs: Sequence[StoredRun]) -> Tasks:
    """Return the predictions on the whole target, or on the first test set of a protocol without it."""
    tasks: Tasks = {}
    for run in runs:
        tests = [row.test for row in run.results]
        found = read_predictions(run, "all" if "all" in tests else tests[0])
        if found is not None:
            row = run.results[0]
            task = f"{row.data}, {row.protocol}"
            line = tasks.setdefault(task, {}).setdefault(line_of(run), {})
            line.setdefault(row.target or "", []).append(found)
    return tasks


def _hits(task: str, targets: Mapping[str, Sequence[Predictions]]) -> dict[str, Hits]:
    unit = unit_of(task.split(",")[0])
    return {target: mean_hits(seeds, unit) for target, seeds in targets.items()}


def _accuracies(paper: Paper, tasks: Tasks, folder: Path, lines: Mapping[str, Any]) -> list[Part]:
    """Return the plot of accuracies: published beside measured."""
    measured = tuple(
        Series(task, {line: _by_seed(of[line]) for line in lines if line in of}) for task, of in tasks.items()
    )
    panels = [Panel("measured", measured)]
    published = published_series(paper)
    if published:
        panels.insert(0, Panel("published", published))
    assert paper.figure is not None or paper.claims
    x = paper.figure.get("x") if paper.figure else None
    path = save(option_figure(panels, x), folder / f"{paper.name}.png")
    text = (
        "Accuracy, mean over targets and seeds; bars span the seeds. Each panel has its own axis: other data and "
        "another model are not comparable in level, only in order."
    )
    return [Picture(path, paper.title, text)]


def _by_seed(targets: Mapping[str, Sequence[Predictions]]) -> list[float]:
    """Return the accuracy of each seed, in percent, averaged over targets; seeds that miss a target are left out."""
    seeds = min(len(found) for found in targets.values())
    return [100 * fmean(float(found[i].right.mean()) for found in targets.values()) for i in range(seeds)]


def published_series(paper: Paper) -> tuple[Series, ...]:
    """Return the published accuracies by data set, protocol and line, averaged over targets."""
    study = paper.study
    groups: dict[str, dict[str, dict[str, list[float]]]] = {}
    for number in paper.numbers:
        for line, own in _options(study["methods"]).items():
            options = {k: v for k, v in own.items() if k not in ("method", "backbone", "target_split")}
            backbone = str(own.get("backbone", study["options"]["backbone"])).partition(":")[0]
            if (
                number.method == own.get("method", line)
                and number.values == options
                and number.backbone.partition(":")[0] == backbone
            ):
                task = groups.setdefault(f"{number.data}, {number.protocol}", {})
                kind = "mean" if number.target == "mean" else "target"
                task.setdefault(line, {}).setdefault(kind, []).append(float(number.percent))
    return tuple(
        Series(task, {line: [fmean(of.get("mean") or of["target"])] for line, of in lines.items()})
        for task, lines in groups.items()
    )


def _options(methods: Any) -> dict[str, dict[str, Any]]:
    items = methods.items() if isinstance(methods, Mapping) else ((name, None) for name in methods)
    return {str(line): dict(own or {}) for line, own in items}


def _open(runs: Sequence[StoredRun]) -> tuple[Run, Source, Episode]:
    """Open the first run, with its data set and split."""
    if not runs:
        raise UserError("no run is finished")
    run = open_run(runs[0].folder.path)
    config = run.options.config
    source = source_from(config.data)
    return run, source, episode_from(config.split, source)


def _first_of_each_line(runs: Sequence[StoredRun]) -> dict[str, StoredRun]:
    """Return the first run of each line, all with the same target."""
    target = runs[0].results[0].target
    found: dict[str, StoredRun] = {}
    for run in runs:
        if run.results[0].target == target:
            found.setdefault(line_of(run), run)
    return found


def _similarity(paper: Paper, runs: Sequence[StoredRun], folder: Path) -> tuple[list[Part], list[Verdict]]:
    """Draw figure 6, and compare classes of one group with others."""
    run, source, _ = _open(runs)
    assert paper.figure is not None
    sharpnesses = tuple(float(value) for value in paper.figure.get("sharpness", ()))
    parts = similarity_part(run.options.config, source, folder / f"{paper.name}.png", sharpnesses)
    if source.class_groups is None:
        note = f"No verdict: the classes of {source.name} have no groups."
        return [*parts, Paragraph(note)], []
    estimate = bootstrap(
        [group_gaps(text_similarity(run.backbone, source.class_names, source.templates), source)]
    )
    finding = Finding(
        "cosine", "same group minus others", estimate, f"{len(source.class_names)} classes", 3, 1.0
    )
    return parts, [Verdict(claim.text, (finding,)) for claim in paper.claims]


def group_gaps(similarity: np.ndarray, source: Source) -> UnitValues:
    """Return, by class, the mean cosine with its narrowest group minus that with all other classes."""
    assert source.class_groups is not None
    groups = np.array([groups[0] for groups in source.class_groups])  # [C]
    same = groups[:, None] == groups  # [C, C]
    np.fill_diagonal(same, False)
    other = groups[:, None] != groups  # [C, C]
    classes = np.flatnonzero(same.any(axis=1) & other.any(axis=1))
    gaps = [similarity[c, same[c]].mean() - similarity[c, other[c]].mean() for c in classes]
    return UnitValues(classes, np.array(gaps), np.ones(len(classes)))


def _cases(paper: Paper, runs: Sequence[StoredRun], folder: Path) -> tuple[list[Part], list[Verdict]]:
    """Draw figure 4 on images of new classes, and measure how many of the best wrong answers are related."""
    lines = _first_of_each_line(runs)
    run, source, episode = _open(list(lines.values()))
    tests = {test.name: test for test in episode.tests}
    test, new = tests.get("all", episode.tests[-1]), tests.get("new", episode.tests[-1])
    stored = {line: read_predictions(one, test.name) for line, one in lines.items()}
    views = _disagreements([one for one in stored.values() if one is not None], new.rows)
    opened = {line: open_run(one.folder.path) for line, one in lines.items()}
    models = [
        Model(line, one.backbone, one.method.classifier, one.record.templates, settings_of(one.method))
        for line, one in opened.items()
    ]
    preprocess = preprocess_for(run.backbone, run.options.config.data.interpolation, source)
    figure = case_figure(models, source, test, views, preprocess, ["new class"] * len(views.rows))
    text = (
        f"Images of new classes of {source.name}, drawn at random (seed 0) among those on which the lines disagree. "
        "First row: the five most probable classes, the true one in green. Second row: attention of the class token, "
        "and similarity of the guide's tokens with the true class."
    )
    parts: list[Part] = [Picture(save(figure, folder / f"{paper.name}.png"), paper.title, text)]
    if source.class_groups is None:
        return parts, []
    related: dict[str, dict[str, list[Hits]]] = {}
    for one in runs:
        found = read_predictions(one, "new" if "new" in tests else test.name)
        if found is not None:
            by_target = related.setdefault(line_of(one), {})
            by_target.setdefault(one.results[0].target or "", []).append(related_answers(found, source))
    hits = {
        line: {
            target: Hits(seeds[0].units, np.mean([one.right for one in seeds], axis=0), seeds[0].views)
            for target, seeds in of.items()
        }
        for line, of in related.items()
    }
    task = "share of the wrong top-5 answers in the group of the true class"
    return parts, [judge(claim, {task: hits}, {task: "concepts"}) for claim in paper.claims]


def related_answers(found: Predictions, source: Source) -> Hits:
    """Return, by class, the share of the wrong answers among the five best that are in the true class's group."""
    assert source.class_groups is not None
    groups = np.array([groups[0] for groups in source.class_groups])  # [C]
    wrong = found.ranked != found.labels[:, None]  # [n, 5]
    related = (groups[found.ranked] == groups[found.labels][:, None]) & wrong  # [n, 5]
    shares = related.sum(axis=1) / np.maximum(wrong.sum(axis=1), 1)  # [n]
    units, at = np.unique(found.labels, return_inverse=True)  # [u], [n]
    return Hits(units, np.bincount(at, shares), np.bincount(at).astype(float))


def _disagreements(stored: Sequence[Predictions], rows: np.ndarray) -> ViewSelection:
    """Return views of some rows, at random, first those on which the predictions differ."""
    first = stored[0]
    generator = np.random.default_rng(0)
    order = generator.permutation(np.flatnonzero(np.isin(first.rows, rows)))
    same = [one for one in stored if one.same_views(first)]
    differ = np.any([one.answers != first.answers for one in same], axis=0)[order]  # [n]
    chosen = np.r_[order[differ], order[~differ]][:CASES]
    return ViewSelection(first.rows[chosen].astype(np.int64), first.draws[chosen])


def _structures(paper: Paper, runs: Sequence[StoredRun], folder: Path) -> tuple[list[Part], list[Verdict]]:
    """Draw figures 7 and 8, and compare how well the structures find the object."""
    lines = _first_of_each_line(runs)
    run, source, episode = _open(list(lines.values()))
    if not isinstance(source, MaskedSource):
        raise UserError(f"{source.name} has no masks of its objects; use --data pictograms")
    assert paper.figure is not None
    rows = episode.tests[0].rows
    views = draw_views(source, rows, min(SCORED, len(rows)))
    models = {line: open_run(one.folder.path).backbone for line, one in lines.items()}
    preprocess = preprocess_for(run.backbone, run.options.config.data.interpolation, source)
    maps = structure_maps(models, paper.figure["structures"], source, views, preprocess)
    scores = {line: localisation(found, source, views) for line, found in maps.items()}
    figure = structure_figure(maps, scores, source, views, preprocess, IMAGES)
    text = (
        "Similarity of patches with the name of the true class, by attention structure in the last half of the "
        f"layers; {len(views.rows)} test images of {source.name} are scored, the first {IMAGES} are drawn. "
        "Precision: mean average precision as a detector of the object's pixels."
    )
    path = save(figure, folder / f"{paper.name}.png")
    task = "average precision of the map"
    hits = {task: {line: {"": found} for line, found in scores.items()}}
    return [Picture(path, paper.title, text)], [
        judge(claim, hits, {task: "images"}) for claim in paper.claims
    ]
