"""Pictures and map scores for a report: the same test images through several runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..backbone import load
from ..core.config import DataOptions, SplitOptions
from ..core.errors import UserError
from ..core.fields import options_of
from ..core.types import Episode, Source, TestSet
from ..data.registry import source_from
from ..engine.setup import preprocess_for
from ..explain.compare import Model, ViewSelection, compare_figure, compare_maps, draw_views
from ..explain.figures import save
from ..explain.scores import MapScores
from ..methods import get_method
from ..protocols import RETRIEVAL, episode_from
from ..runs.folder import open_run, read_options, zeroshot
from .collect import Found
from .document import Grid, Paragraph, Part, Picture
from .tables import order_labels

MOST_MODELS = 4  # more columns cannot be read at the width of a page
SCORED = 256  # images with masks behind the map scores
# Runs with the same values of these can be shown on the same images.
TASK = (*options_of(DataOptions, SplitOptions), "backbone", "template")


def picture_parts(runs: Sequence[Found], folder: Path, count: int, seed: int = 0) -> list[Part]:
    """Draw test images with maps of the largest group of runs that share a task.

    Args:
        runs: of each method the first is shown, zero-shot always.
        folder: for the PNG file.
        count: how many images, half of base and half of new classes where the task has both.
        seed: of the draw of the images.

    Returns:
        Nothing where no run has weights; the reason where their data or backbone are not at hand any more.
    """
    group = _largest_group(runs)
    if not group or count < 1:
        return []
    try:
        return _draw(group, folder, count, seed)
    except UserError as error:
        return [Paragraph(f"No pictures: {error}.")]


def _draw(group: Sequence[Found], folder: Path, count: int, seed: int) -> list[Part]:
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
        f"{len(views.rows)} test images of {source.name} ({where}), drawn with seed {seed}, not by eye. "
        "Per model: the class token's attention (mean over the layers that AlignCLIP aligns), and the "
        "similarity of D-V tokens with the name of the true class."
    )
    parts: list[Part] = [Picture(save(figure, folder / "maps.png"), "Maps of each model", caption)]
    scored = draw_views(source, test.rows, min(SCORED, len(test.rows)), seed)
    scores = compare_maps(models, source, test, scored, preprocess)
    return [*parts, _score_grid(scores)] if scores else parts


def _largest_group(runs: Sequence[Found]) -> list[Found]:
    groups: dict[tuple[Any, ...], list[Found]] = {}
    for run in runs:
        if run.folder.model.is_file() and run.options and _protocol(run) != RETRIEVAL:
            values = {**run.options, "protocol": _protocol(run)}
            groups.setdefault(tuple(str(values.get(name)) for name in TASK), []).append(run)
    return max(groups.values(), key=lambda group: len({run.method for run in group}), default=[])


def _protocol(run: Found) -> str:
    """What the run chose where --protocol was not given."""
    return str(run.folder.record()["protocol"])


def _models(group: Sequence[Found]) -> list[Model]:
    """Zero-shot, then the first run of each method that trains a tower, and so changes the maps."""
    options = group[0].options
    before = load(options["backbone"], cache_dir=options.get("cache_dir"))
    templates = tuple(group[0].folder.record()["templates"])
    models = [Model("zero-shot", before, zeroshot(before, templates).classifier, templates)]
    first = {run.method: run for run in reversed(group)}
    for name in order_labels(first):
        if "tower" in get_method(name).trains and len(models) < MOST_MODELS:
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
    """One line per model and map, and one for a map that knows nothing."""
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
        f"Means over {images} test images with exact masks of the object. Correlation: of map and mask over "
        "pixels. Pointing: how often the highest pixel lies on the object. Precision: mean average precision "
        "of pixels. Lift: share of the attention on the object over its share of the area (1 is uniform)."
    )
    heads = ("model", "map", "correlation", "pointing", "precision", "lift")
    return Grid(heads, tuple(lines), note, labels=2)
