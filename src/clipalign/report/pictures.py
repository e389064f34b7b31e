"""Pictures of attention maps, and their scores: the same test images through several models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..backbone import Backbone, load, preprocess_for
from ..backbone.text.features import DEFAULT_TEMPLATES
from ..core.config import DataOptions, SplitOptions
from ..core.errors import UserError
from ..core.fields import options_of
from ..core.types import Episode, Source, TestSet
from ..data.registry import source_from
from ..explain.compare import Model, ViewSelection, compare_figure, compare_maps, draw_views
from ..explain.figures import save
from ..explain.maps import attention_label, guide_label, settings_of
from ..explain.scores import MapScores
from ..methods import get_method
from ..protocols import RETRIEVAL, episode_from
from ..runs.run import open_run, read_options, zeroshot
from .case_study import case_figure
from .collect import StoredRun
from .document import Grid, Heading, Paragraph, Part, Picture
from .rows import label_rows, order_labels

MAX_MODELS = 4  # of one figure; more columns are too small at the width of a page
CASES = 2  # images of a case study; new classes if the task has them
CASE_CAPTION = (
    "Case study of the last images above. First row: the five most probable classes per model, the true one in green. "
    "Second row: attention of the class token, and similarity of the guide's tokens with the true class."
)
MASKED_IMAGES = 256  # images with masks that maps are scored on
# Runs that agree in these options can be compared on the same images.
TASK_OPTIONS = (*options_of(DataOptions, SplitOptions), "backbone", "template")


def picture_section(runs: Sequence[StoredRun], folder: Path, count: int, seed: int = 0) -> list[Part]:
    """Return test images with the maps of each model, for the largest group of runs that share a task.

    Args:
        runs: the first run of each method and variant is drawn, and zero-shot.
        folder: folder of the PNG files.
        count: number of images; half of base and half of new classes if the task has both.
        seed: seed of the draw of the images.

    Returns:
        The section; without pictures but with the reason if data or backbone cannot be opened any more, or the tower
        has no image tokens. Empty if no run has weights.
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
    before = load(config.model.backbone, cache_dir=config.model.cache_dir).configure(config.model)
    before.check_offers(["image tokens"], "an attention map")
    preprocess = preprocess_for(before, config.data.interpolation, source)
    test = next((t for t in episode.tests if t.name == "all"), episode.tests[-1])
    views, notes = _choose(episode, source, test, count, seed)
    where = episode.protocol + (f", target {episode.target}" if episode.target else "")
    caption = (
        f"{len(views.rows)} test images of {source.name} ({where}), drawn at random with seed {seed}. Per model: the "
        "attention of the class token, and the similarity of the tokens of the guide with the name of the true class. "
        "Runs of AlignCLIP are drawn with their own aligned layers and guide, other models with those of the first "
        "such run in the picture, else with the published ones."
    )
    scored = draw_views(source, test.rows, min(MASKED_IMAGES, len(test.rows)), seed)
    parts: list[Part] = []
    lines: dict[tuple[str, str], MapScores] = {}
    for number, chunk in enumerate(_chunks(_variants(group)), 1):
        models = _models(before, chunk)
        figure = compare_figure(models, source, test, views, preprocess, notes)
        file = folder / (f"maps-{number}.png" if number > 1 else "maps.png")
        parts.append(Picture(save(figure, file), "Maps of each model", caption))
        cases = ViewSelection(views.rows[-CASES:], views.draws[-CASES:])
        figure = case_figure(models, source, test, cases, preprocess, notes[-CASES:])
        parts.append(Picture(save(figure, folder / f"cases-{number}.png"), "Case study", CASE_CAPTION))
        lines |= score_lines(models, compare_maps(models, source, test, scored, preprocess))
    return [*parts, _score_grid(lines)] if lines else parts


def _largest_group(runs: Sequence[StoredRun]) -> list[StoredRun]:
    groups: dict[tuple[str, ...], list[StoredRun]] = {}
    for run in runs:
        if run.folder.model.is_file() and run.options and _protocol(run) != RETRIEVAL:
            values = {**run.options, "protocol": _protocol(run)}
            groups.setdefault(tuple(str(values.get(name)) for name in TASK_OPTIONS), []).append(run)
    return max(groups.values(), key=lambda group: len({run.method for run in group}), default=[])


def _protocol(run: StoredRun) -> str:
    """Return the protocol of a run; the options lack it if it was chosen by default."""
    return run.folder.record().protocol


def _variants(group: Sequence[StoredRun]) -> list[tuple[str, StoredRun]]:
    """Return the first run of each method and variant that trains the image tower, with its label."""
    rows = [row for run in group for row in run.rows() if row.result.method == run.method]
    labels = {row.run: label for label, row in reversed(label_rows(rows))}  # the first row of each run
    first = {labels[run.name]: run for run in reversed(group) if run.name in labels}
    return [
        (label, first[label])
        for label in order_labels(first)
        if get_method(first[label].method).trains_image_tower
    ]


def _chunks(runs: Sequence[tuple[str, StoredRun]]) -> list[Sequence[tuple[str, StoredRun]]]:
    """Return the runs of each figure, which also has a column for zero-shot; one figure if there are no runs."""
    size = MAX_MODELS - 1
    return [runs[start : start + size] for start in range(0, max(1, len(runs)), size)]


def _models(before: Backbone, runs: Sequence[tuple[str, StoredRun]]) -> list[Model]:
    """Return the models of one figure: zero-shot, and the runs."""
    opened = [(label, run.folder.record().templates, open_run(run.folder.path)) for label, run in runs]
    own = [settings_of(run.method) for _, _, run in opened]
    common = next((settings for settings in own if settings is not None), None)
    templates = opened[0][1] if opened else DEFAULT_TEMPLATES
    models = [Model("zero-shot", before, zeroshot(before, templates).classifier, templates, common)]
    for (label, names, run), settings in zip(opened, own, strict=True):
        models.append(Model(f"after {label}", run.backbone, run.method.classifier, names, settings or common))
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


def score_lines(
    models: Sequence[Model], scores: dict[str, dict[str, MapScores]]
) -> dict[tuple[str, str], MapScores]:
    """Return the scores by model and name of the map, which includes layers and guide.

    Args:
        models: models of one figure.
        scores: result of `compare_maps`.
    """
    lines: dict[tuple[str, str], MapScores] = {}
    for model in models if scores else ():
        settings = model.map_settings
        names = {
            "attention": attention_label(settings),
            "patches": "patch tokens",
            "guide": f"{guide_label(settings)} tokens",
        }
        lines |= {(model.title, names[key]): one for key, one in scores[model.title].items()}
    return lines | {("", ""): scores[""]["attention"]} if scores else lines


def _score_grid(lines: dict[tuple[str, str], MapScores]) -> Grid:
    """Return a table of map scores per model, with a uniform map for comparison."""
    cells = []
    uniform = lines[("", "")]
    for (title, name), s in [*((k, v) for k, v in lines.items() if k[0]), (("", ""), uniform)]:
        place = (title, name) if title else ("none", "uniform map, for comparison")
        lift = "" if s.lift is None else f"{s.lift:.2f}"
        shares = (f"{s.correlation:.2f}", f"{100 * s.pointing:.0f} %", f"{s.average_precision:.2f}", lift)
        cells.append((*place, *shares))
    images = uniform.images
    note = (
        f"Means over {images} test images with exact masks of the object. Correlation: between map and mask, over "
        "pixels. Pointing: share of images whose highest pixel is on the object. Precision: mean average precision of "
        "pixels. Lift: share of the attention on the object, divided by its share of the area (1 for a uniform map)."
    )
    heads = ("model", "map", "correlation", "pointing", "precision", "lift")
    return Grid(heads, tuple(cells), note, labels=2)
