"""Comparison of several models on the same test images: figures, and scores of their maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..backbone import Backbone
from ..backbone.text.features import class_text_features
from ..core.errors import UnseenClasses
from ..core.masked_source import MaskedSource
from ..core.types import Preprocess, Source, TestSet
from ..evaluation.loader import batches_for
from ..methods.capabilities import MapSettings
from .figures import Block, Panel, grid_figure
from .maps import Maps, attention_label, default_settings, guide_label, make_maps
from .photo import heat
from .scores import MapScores, score

BATCH = 64  # images per forward pass


@dataclass(frozen=True)
class Model:
    """A model to compare.

    Attributes:
        title: title above its maps.
        backbone: towers of the maps.
        classifier: class names -> classifier of the predictions.
        templates: prompt templates for the similarity to class names.
        settings: layers and guide of the maps; None for the published ones.
    """

    title: str
    backbone: Backbone
    classifier: Callable[[Sequence[str]], Callable[[Tensor], Tensor]]
    templates: tuple[str, ...]
    settings: MapSettings | None = None

    @property
    def map_settings(self) -> MapSettings:
        """Layers and guide of the maps."""
        return self.settings or default_settings(self.backbone.num_blocks)


@dataclass(frozen=True)
class ViewSelection:
    """Images to compare on: fixed view `draws[i]` of row `rows[i]`, both [n] int64."""

    rows: np.ndarray
    draws: np.ndarray


def draw_views(source: Source, rows: np.ndarray, count: int, seed: int = 0) -> ViewSelection:
    """Draw test images at random; rows repeat only after all of them were drawn.

    Args:
        source: data set.
        rows: rows to draw from.
        count: number of images.
        seed: seed of the draw, so that no image is picked by hand.
    """
    rng = np.random.default_rng(seed)
    rounds = max(1, -(-count // len(rows)))  # at least one, since concatenate needs an array
    order = np.concatenate([rng.permutation(rows) for _ in range(rounds)])[:count]  # [count]
    return ViewSelection(order, rng.integers(source.views("test"), size=count))


@torch.no_grad()
def maps_and_predictions(
    model: Model, source: Source, test: TestSet, views: ViewSelection, preprocess: Preprocess
) -> tuple[Maps, Tensor, Tensor]:
    """Compute the maps of the true class, and the predictions.

    Returns:
        Maps with `patches` and `guide` [n, gh, gw], probabilities [n, C], and labels [n] in the label space of the
        test set. Probabilities are NaN if the model cannot score that label space.
    """
    names = [source.class_names[c] for c in test.classes]
    position = {c: i for i, c in enumerate(test.classes)}
    labels = torch.tensor([position[int(source.labels[row])] for row in views.rows])  # [n]
    images = source.images(views.rows, "test", views.draws, 0, preprocess).to(model.backbone.device)
    text = class_text_features(model.backbone, names, model.templates)  # [C, d]
    try:
        classifier = model.classifier(names)
    except UnseenClasses:
        classifier = _unknown(len(names))
    maps = []
    for start in range(0, len(labels), BATCH):
        part = slice(start, start + BATCH)
        maps.append(make_maps(model.backbone, images[part], text, model.map_settings).of(labels[part]))
    probabilities = torch.empty(len(labels), len(names))  # [n, C]
    for chosen in batches_for(classifier, source.domains[views.rows], BATCH):
        probabilities[chosen] = classifier(images[chosen]).softmax(dim=-1).cpu()  # [b, C]
    joined = Maps(
        *(torch.cat([getattr(m, name) for m in maps]) for name in ("attention", "patches", "guide"))
    )
    return joined, probabilities, labels


def _unknown(classes: int) -> Callable[[Tensor], Tensor]:
    """Return a classifier whose logits are NaN."""
    return lambda images: torch.full((len(images), classes), torch.nan)


def compare_figure(
    models: Sequence[Model],
    source: Source,
    test: TestSet,
    views: ViewSelection,
    preprocess: Preprocess,
    notes: Sequence[str] = (),
) -> Figure:
    """Draw a row per image: the image, then per model its attention, its guide map of the true class, its
    prediction.

    Args:
        models: models from left to right.
        source: data set.
        test: test set, whose class names the models choose from.
        views: images of the test set.
        preprocess: preprocessing of all models.
        notes: remark on each image, added to its class name, such as "new class".
    """
    size = preprocess.size
    images = source.images(views.rows, "test", views.draws, 0, preprocess)  # [n, 3, H, W]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocess.mean, preprocess.std))
    pixels = (images * std + mean).clamp(0, 1).permute(0, 2, 3, 1).double().numpy()  # [n, H, W, 3]
    rows: list[list[Panel]] = []
    for i, row in enumerate(views.rows):
        name = source.class_names[source.labels[row]]
        rows.append([Panel(pixels[i], caption=f"{name} ({notes[i]})" if notes else name)])
    for model in models:
        maps, probabilities, labels = maps_and_predictions(model, source, test, views, preprocess)
        for i, row in enumerate(rows):
            heats = (heat(maps.attention[i], size), heat(maps.guide[i], size))
            predicted = int(probabilities[i].argmax())
            if probabilities[i].isnan().any():
                row.append(Panel(pixels[i], heats, "cannot score these names"))
                continue
            name = source.class_names[test.classes[predicted]]
            caption = f"{name} ({100 * float(probabilities[i, predicted]):.0f} %)"
            row.append(Panel(pixels[i], heats, caption, right=predicted == int(labels[i])))
    blocks = [Block("", ("image",))]
    for model in models:
        settings = model.map_settings
        blocks.append(Block(model.title, (attention_label(settings), guide_label(settings))))
    footer = (
        "Each map is scaled to its range; bright is high. Below the maps: prediction among "
        f"{len(test.classes)} names, with its probability."
    )
    return grid_figure(blocks, rows, footer)


def compare_maps(
    models: Sequence[Model], source: Source, test: TestSet, views: ViewSelection, preprocess: Preprocess
) -> dict[str, dict[str, MapScores]]:
    """Score the attention, patch and guide maps of each model against the masks of the data set.

    Returns:
        Title of the model -> "attention", "patches", "guide" -> scores; and "" -> scores of uniform attention. Empty if
        the data set has no masks.
    """
    if not isinstance(source, MaskedSource):
        return {}
    pairs = zip(views.rows.tolist(), views.draws.tolist(), strict=True)
    masks = torch.stack([source.sample(row, "test", draw).silhouette for row, draw in pairs])  # [n, H, W]
    scores = {}
    for model in models:
        maps, _, _ = maps_and_predictions(model, source, test, views, preprocess)
        scores[model.title] = {
            "attention": score(maps.attention, masks, attention=True),
            "patches": score(maps.patches, masks, attention=False),
            "guide": score(maps.guide, masks, attention=False),
        }
    rows, columns = models[0].backbone.grid
    uniform = torch.full((len(masks), rows, columns), 1 / (rows * columns))  # [n, gh, gw]
    return scores | {"": {"attention": score(uniform, masks, attention=True)}}
