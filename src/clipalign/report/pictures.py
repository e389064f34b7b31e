"""Pictures of attention maps, and their scores: the same test images through several models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..backbone import load, preprocess_for
from ..core.config import DataOptions, SplitOptions
from ..core.errors import UserError
from ..core.fields import options_of
from ..core.types import Episode, Source, TestSet
from ..data.registry import source_from
from ..explain.compare import Model, ViewSelection, compare_figure, compare_maps, draw_views
from ..explain.figures import save
from ..explain.scores import MapScores
from ..methods import get_method
from ..protocols import RETRIEVAL, episode_from
from ..runs.run import open_run, read_options, zeroshot
from .collect import StoredRun
from .document import Grid, Heading, Paragraph, Part, Picture
from .rows import order_labels

MAX_MODELS = 4  # more columns are too small at the width of a page
MASKED_IMAGES = 256  # images with masks that maps are scored on
# Runs that agree in these options can be compared on the same images.
TASK_OPTIONS = (*options_of(DataOptions, SplitOptions), "backbone", "template")


def picture_section(runs: Sequence[StoredRun], folder: Path, count: int, seed: int = 0) -> list[Part]:
    """Return test images with the maps of each model, for the largest group of runs that share a task.

    Args:
        runs: the first run of each method is drawn, and zero-shot.
        folder: folder of the PNG file.
        count: number of images; half of base and half of new classes if the task has both.
        seed: seed of the draw of the images.

    Returns:
        The section; without pictures but with the reason if data or backbone cannot be opened any more. Empty if no
        run has weights.
    """
    group = _largest_group(runs)
    if not group or count < 1:
        return []
    try:
        parts = _draw(group, folder, count, seed)
    except UserError as error:
        parts = [Paragraph(f"No pictures: {error}.")]
    return [Heading("Attention maps"), *parts]


def _draw(group: Sequence[StoredRun], folder: Path, count: int, seed: int) -> list[Part]:
    config = read_options(group[0].folder).config
    source = source_from(config.data)
    episode = episode_from(replace(config.split, protocol=_protocol(group[0])), source)
    models = _models(group)
    preprocess = preprocess_for(models[0].backbone, config.data.interpolation, source)
    test = next((t for t in episode.tests if t.name == "all"), episode.tests[-1])
    views, notes = _choose(episode, source, test, count, seed)
    figure = compare_figure(models, source, test, views, preprocess, notes)
    where = episode.protocol + (f", target {episode.target}" if episode.target else "")
    caption = (
        f"{len(views.rows)} test images of {source.name} ({where}), drawn at random with seed {seed}. Per model: the "
        "attention of the class token (mean over the layers that AlignCLIP aligns), and the similarity of D-V tokens "
        "with the name of the true class."
    )
    parts: list[Part] = [Picture(save(figure, folder / "maps.png"), "Maps of each model", caption)]
    scored = draw_views(source, test.rows, min(MASKED_IMAGES, len(test.rows)), seed)
    scores = compare_maps(models, source, test, scored, preprocess)
    return [*parts, _score_grid(scores)] if scores else parts


def _largest_group(runs: Sequence[StoredRun]) -> list[StoredRun]:
    groups: dict[tuple[str, ...], list[StoredRun]] = {}
    for run in runs:
        if run.folder.model.is_file() and run.options and _protocol(run) != RETRIEVAL:
            values = {**run.options, "protocol": _protocol(run)}
            groups.setdefault(tuple(str(values.get(name)) for name in TASK_OPTIONS), []).append(run)
    return max(groups.values(), key=lambda group: len({run.method for run in group}), default=[])


def _protocol(run: StoredRun) -> str:
    """Return the protocol of a run; the options lack it if it was chosen by default."""
    return str(run.folder.record()["protocol"])


def _models(group: Sequence[StoredRun]) -> list[Model]:
    """Return zero-shot and the first run of each method that trains a tower, which changes the maps."""
    options = group[0].options
    before = load(options["backbone"], cache_dir=options.get("cache_dir"))
    templates = tuple(group[0].folder.record()["templates"])
    models = [Model("zero-shot", before, zeroshot(before, templates).classifier, templates)]
    first = {run.method: run for run in reversed(group)}
    for name in order_labels(first):
        if "tower" in get_method(name).trains and len(models) < MAX_MODELS:
            run = open_run(first[name].folder.path)
            models.append(Model(f"after {name}", run.backbone, run.method.classifier, templates))
    return models


def _choose(
    episode: Episode, source: Source, test: TestSet, count: int, seed: int
) -> tuple[ViewSelection, list[str]]:
    parts = {part.name: part.rows for part in episode.tests if part.classes == test.classes}
    if not {"base", "new"} <= set(parts):
        return draw_views(source, test.rows, count, seed), []
    halves = [
        draw_views(source, parts["base"], count - count // 2, seed),
        draw_views(source, parts["new"], count // 2, seed),
    ]
    together = ViewSelection(
        *(np.concatenate([getattr(h, name) for h in halves]) for name in ("rows", "draws"))
    )
    return together, ["base"] * len(halves[0].rows) + ["new"] * len(halves[1].rows)


def _score_grid(scores: dict[str, dict[str, MapScores]]) -> Grid:
    """Return a table of map scores per model, with a uniform map for comparison."""
    names = {"attention": "class-token attention", "patches": "patch tokens", "guide": "D-V tokens"}
    lines = []
    for title, maps in scores.items():
        for key, s in maps.items():
            place = (title, names[key]) if title else ("none", "uniform map, for comparison")
            lift = "" if s.lift is None else f"{s.lift:.2f}"
            shares = (f"{s.correlation:.2f}", f"{100 * s.pointing:.0f} %", f"{s.average_precision:.2f}", lift)
            lines.append((*place, *shares))
    images = next(iter(scores.values()))["attention"].images
    note = (
        f"Means over {images} test images with exact masks of the object. Correlation: between map and mask, over "
        "pixels. Pointing: share of images whose highest pixel is on the object. Precision: mean average precision of "
        "pixels. Lift: share of the attention on the object, divided by its share of the area (1 for a uniform map)."
    )
    heads = ("model", "map", "correlation", "pointing", "precision", "lift")
    return Grid(heads, tuple(lines), note, labels=2)
