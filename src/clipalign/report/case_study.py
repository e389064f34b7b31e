"""Case study as AlignCLIP's Figure 4: the five best answers of several models, and where each looks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ..core.types import Preprocess, Source, TestSet
from ..explain.compare import Model, ViewSelection, maps_and_predictions
from ..explain.figures import overlay, shorten
from ..explain.maps import attention_label, guide_label
from ..explain.photo import heat
from .style import FAINT, INK, new_figure

TOP = 5
TRUE_CLASS, OTHER = "#7fc08f", "#b9cbda"  # bars light enough for dark text


def case_figure(
    models: Sequence[Model],
    source: Source,
    test: TestSet,
    views: ViewSelection,
    preprocess: Preprocess,
    notes: Sequence[str] = (),
) -> Figure:
    """Draw two rows per image: the answers of each model with their probabilities, and its two maps.

    Args:
        models: models from left to right.
        source: data set.
        test: test set, whose class names the models choose from.
        views: images of the test set.
        preprocess: preprocessing of all models.
        notes: remark on each image, added to its class name.
    """
    names = [source.class_names[c] for c in test.classes]
    images = source.images(views.rows, "test", views.draws, 0, preprocess)  # [n, 3, H, W]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocess.mean, preprocess.std))
    pixels = (images * std + mean).clamp(0, 1).permute(0, 2, 3, 1).double().numpy()  # [n, H, W, 3]
    answers = [maps_and_predictions(model, source, test, views, preprocess) for model in models]
    count = len(views.rows)
    figure, _ = new_figure(1.6 + 2.8 * len(models), 3.1 * count, columns=0)
    grid = figure.add_gridspec(2 * count, 1 + 2 * len(models), width_ratios=[1.1] + [1, 1] * len(models))
    for i, row in enumerate(views.rows):
        name = source.class_names[source.labels[row]]
        title = f"{name} ({notes[i]})" if notes else name
        _picture(figure.add_subplot(grid[2 * i, 0]), pixels[i], shorten(title, 24), weight="bold")
        for m, (model, (maps, probabilities, labels)) in enumerate(zip(models, answers, strict=True)):
            place = figure.add_subplot(grid[2 * i, 1 + 2 * m : 3 + 2 * m])
            _bars(place, probabilities[i], int(labels[i]), names)
            if i == 0:
                place.set_title(shorten(model.title, 34), fontsize=8, color=INK, weight="bold")
            settings = model.map_settings
            for column, (table, head) in enumerate(
                ((maps.attention, attention_label(settings)), (maps.guide, guide_label(settings)))
            ):
                cell = figure.add_subplot(grid[2 * i + 1, 1 + 2 * m + column])
                _picture(cell, overlay(pixels[i], heat(table[i], preprocess.size)), head)
    return figure


def _picture(axes: Axes, pixels: object, title: str, weight: str = "normal") -> None:
    axes.imshow(pixels)  # type: ignore[arg-type]
    axes.set_title(title, fontsize=6.5, color=INK, weight=weight)
    axes.set_axis_off()


def _bars(axes: Axes, probabilities: Tensor, label: int, names: Sequence[str]) -> None:
    """Draw the best answers of one model on one image, the true class in green."""
    if probabilities.isnan().any():
        axes.text(0.5, 0.5, "cannot score these names", ha="center", fontsize=7, color=INK)
        axes.set_axis_off()
        return
    best = probabilities.topk(min(TOP, len(names)))
    axes.barh(
        range(len(best.indices)),
        (100 * best.values).tolist(),
        color=[TRUE_CLASS if int(c) == label else OTHER for c in best.indices],
        height=0.75,
    )
    for place, (c, share) in enumerate(zip(best.indices.tolist(), best.values.tolist(), strict=True)):
        axes.text(
            2, place, f"{shorten(names[c], 22)}  {100 * share:.0f} %", va="center", fontsize=6.5, color=INK
        )
    axes.set(xlim=(0, 100), yticks=[])
    axes.invert_yaxis()
    axes.tick_params(labelsize=6, colors=INK, length=2)
    axes.grid(axis="x", color=FAINT, linewidth=0.5)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
