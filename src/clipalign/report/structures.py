"""Attention structures side by side: maps of the true class, and how well each finds the object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..backbone import Backbone
from ..backbone.text.features import class_text_features
from ..core.masked_source import MaskedSource
from ..core.types import Preprocess
from ..evaluation.maps import similarity_maps, trace
from ..explain.compare import ViewSelection
from ..explain.figures import overlay, shorten
from ..explain.photo import heat
from ..explain.scores import average_precision, upsample
from .comparison import Hits
from .style import INK, new_figure

BATCH = 64  # images per forward pass


@torch.no_grad()
def structure_maps(
    models: Mapping[str, Backbone],
    structures: Sequence[str],
    source: MaskedSource,
    views: ViewSelection,
    preprocess: Preprocess,
) -> dict[str, Tensor]:
    """Return the similarity of patches with the name of the true class, by model and structure.

    Args:
        models: title -> backbone.
        structures: names of `backbone.attention.STRUCTURES`.
        source: data set.
        views: n test images.
        preprocess: preprocessing of all models.

    Returns:
        "TITLE STRUCTURE" -> [n, gh, gw].
    """
    images = source.images(views.rows, "test", views.draws, 0, preprocess)  # [n, 3, H, W]
    labels = torch.from_numpy(source.labels[views.rows])  # [n]
    found: dict[str, list[Tensor]] = {}
    for title, backbone in models.items():
        text = class_text_features(backbone, source.class_names, source.templates)  # [C, d]
        for start in range(0, len(images), BATCH):
            part = slice(start, start + BATCH)
            traced = trace(backbone, images[part])
            own = text[labels[part]][:, None]  # [B, 1, d]
            for structure in structures:
                maps = similarity_maps(traced, None, own, structure)[:, 0]  # [B, gh, gw]
                found.setdefault(f"{title} {structure}", []).append(maps)
    return {line: torch.cat(parts) for line, parts in found.items()}


def localisation(maps: Tensor, source: MaskedSource, views: ViewSelection) -> Hits:
    """Return the average precision of each map as a detector of the object's pixels, one unit per image."""
    pairs = zip(views.rows.tolist(), views.draws.tolist(), strict=True)
    masks = torch.stack([source.sample(row, "test", draw).silhouette for row, draw in pairs])  # [n, H, W]
    values = average_precision(upsample(maps, (masks.shape[1], masks.shape[2])), masks).numpy()  # [n]
    return Hits(np.arange(len(values)), np.nan_to_num(values), np.ones(len(values)))


def structure_figure(
    maps: Mapping[str, Tensor],
    scores: Mapping[str, Hits],
    source: MaskedSource,
    views: ViewSelection,
    preprocess: Preprocess,
    count: int,
) -> Figure:
    """Draw a row per line, with its mean average precision, and a column per image.

    Args:
        maps, scores: by line.
        source, views, preprocess: as in `structure_maps`.
        count: images to draw.
    """
    images = source.images(views.rows[:count], "test", views.draws[:count], 0, preprocess)  # [n, 3, H, W]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocess.mean, preprocess.std))
    pixels = (images * std + mean).clamp(0, 1).permute(0, 2, 3, 1).double().numpy()  # [n, H, W, 3]
    figure, _ = new_figure(1.1 * count + 1.5, 1.05 * (len(maps) + 1) + 0.2, columns=0)
    axes = figure.subplots(len(maps) + 1, count, squeeze=False)
    for place in axes.flat:
        place.set(xticks=[], yticks=[])
        for side in place.spines.values():
            side.set_visible(False)
    for place, image, row in zip(axes[0], pixels, views.rows, strict=False):
        place.imshow(image)
        place.set_title(shorten(source.class_names[source.labels[row]], 16), fontsize=7, color=INK)
    for line, (name, found) in zip(axes[1:], maps.items(), strict=True):
        title, _, structure = name.rpartition(" ")
        text = f"{title}\n{'-'.join(structure.upper())}\nprecision {scores[name].right.mean():.2f}"
        line[0].set_ylabel(text, fontsize=7, color=INK, rotation=0, ha="right", va="center")
        for place, image, table in zip(line, pixels, found, strict=False):
            place.imshow(overlay(image, heat(table, preprocess.size)))
    return figure
