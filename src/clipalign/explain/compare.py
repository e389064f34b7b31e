"""Several models on the same test images: pictures, and scores of their maps against exact masks."""

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
from ..core.types import MaskedSource, Preprocess, Source, TestSet
from .figures import Block, Panel, grid_figure
from .maps import Maps, make_maps
from .photo import heat
from .scores import MapScores, score


@dataclass(frozen=True)
class Model:
    """One of the models to compare.

    Attributes:
        title: above its pictures.
        backbone: gives the maps.
        classifier: class names -> logits of images; gives the answers.
        templates: prompts for the similarity with a class name.
    """

    title: str
    backbone: Backbone
    classifier: Callable[[Sequence[str]], Callable[[Tensor], Tensor]]
    templates: tuple[str, ...]


@dataclass(frozen=True)
class ViewSelection:
    """The images to compare on: view `draws[i]` of row `rows[i]`."""

    rows: np.ndarray
    draws: np.ndarray


def draw_views(source: Source, rows: np.ndarray, count: int, seed: int = 0) -> ViewSelection:
    """A seeded draw of test images, of different rows as long as there are enough.

    Args:
        source: gives the number of views.
        rows: to draw from.
        count: how many images.
        seed: of the draw, so that pictures are neither picked by hand nor by how well they look.
    """
    rng = np.random.default_rng(seed)
    rounds = max(
        1, -(-count // len(rows))
    )  # ceil; one round also for no images, since concatenate needs an array
    order = np.concatenate([rng.permutation(rows) for _ in range(rounds)])[:count]
    return ViewSelection(order, rng.integers(source.views("test"), size=count))


@torch.no_grad()
def _look(
    model: Model, source: Source, test: TestSet, views: ViewSelection, preprocess: Preprocess
) -> tuple[Maps, Tensor, Tensor]:
    """Maps for the true class, probabilities [n, C] and true positions [n] in the label space.

    Probabilities are NaN where a model has no answer for names it was not trained on.
    """
    names = [source.class_names[c] for c in test.classes]
    position = {c: i for i, c in enumerate(test.classes)}
    labels = torch.tensor([position[int(source.labels[row])] for row in views.rows])
    images = source.images(views.rows, "test", views.draws, 0, preprocess).to(model.backbone.device)
    text = class_text_features(model.backbone, names, model.templates)
    try:
        classify = model.classifier(names)
    except UnseenClasses:
        classify = _no_answer(len(names))
    maps, answers = [], []
    for start in range(0, len(labels), 64):
        part = slice(start, start + 64)
        maps.append(make_maps(model.backbone, images[part], text).of(labels[part]))
        answers.append(classify(images[part]).softmax(dim=-1).cpu())
    together = Maps(*(torch.cat([getattr(m, f) for m in maps]) for f in ("attention", "patches", "guide")))
    return together, torch.cat(answers), labels


def _no_answer(classes: int) -> Callable[[Tensor], Tensor]:
    return lambda images: torch.full((len(images), classes), torch.nan)


def compare_figure(
    models: Sequence[Model],
    source: Source,
    test: TestSet,
    views: ViewSelection,
    preprocess: Preprocess,
    notes: Sequence[str] = (),
) -> Figure:
    """A row per image: the image, then per model its attention, the D-V map of the true class, its answer.

    Args:
        models: from left to right; all take images of `preprocess`.
        source, test, views: what is shown, and the names to choose from.
        preprocess: of the backbones.
        notes: what to add to the true name of each image, such as "new class".
    """
    size = preprocess.size
    images = source.images(views.rows, "test", views.draws, 0, preprocess)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocess.mean, preprocess.std))
    pixels = (images * std + mean).clamp(0, 1).permute(0, 2, 3, 1).double().numpy()
    rows: list[list[Panel]] = []
    for i, row in enumerate(views.rows):
        name = source.class_names[source.labels[row]]
        rows.append([Panel(pixels[i], caption=f"{name} ({notes[i]})" if notes else name)])
    for model in models:
        maps, answers, labels = _look(model, source, test, views, preprocess)
        for i, row in enumerate(rows):
            heats = (heat(maps.attention[i], size), heat(maps.guide[i], size))
            answer = int(answers[i].argmax())
            if answers[i].isnan().any():
                row.append(Panel(pixels[i], heats, "no answer among these names"))
                continue
            name = source.class_names[test.classes[answer]]
            caption = f"{name} ({100 * float(answers[i, answer]):.0f} %)"
            row.append(Panel(pixels[i], heats, caption, right=answer == int(labels[i])))
    heads = ("class-token attention", "D-V similarity")
    blocks = [Block("", ("image",)), *(Block(model.title, heads) for model in models)]
    footer = (
        "Each map is scaled to its own range; bright is high. Below the maps: the model's answer among "
        f"{len(test.classes)} names, with its probability."
    )
    return grid_figure(blocks, rows, footer)


def compare_maps(
    models: Sequence[Model], source: Source, test: TestSet, views: ViewSelection, preprocess: Preprocess
) -> dict[str, dict[str, MapScores]]:
    """Score attention, patch tokens and D-V tokens of each model against the masks.

    Returns:
        Model title -> "attention", "patches", "guide" -> scores; last, under "", the attention of a model that
        looks everywhere alike. Empty where the source has no masks.
    """
    if not isinstance(source, MaskedSource):
        return {}
    pairs = zip(views.rows.tolist(), views.draws.tolist(), strict=True)
    masks = torch.stack([source.sample(row, "test", draw).silhouette for row, draw in pairs])
    found = {}
    for model in models:
        maps, _, _ = _look(model, source, test, views, preprocess)
        found[model.title] = {
            "attention": score(maps.attention, masks, attention=True),
            "patches": score(maps.patches, masks, attention=False),
            "guide": score(maps.guide, masks, attention=False),
        }
    rows, columns = models[0].backbone.grid
    uniform = torch.full((len(masks), rows, columns), 1 / (rows * columns))
    return found | {"": {"attention": score(uniform, masks, attention=True)}}
