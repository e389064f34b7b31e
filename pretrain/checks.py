"""Measures of a checkpoint on drawings that training never sees."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clipalign.backbone.model import Backbone
from clipalign.explain.mosaic import quadrant_mass, text_maps

from . import layout
from .atlas import Atlas
from .batches import GRID
from .captions import Thing, describe_all, describe_one
from .layout import Placed
from .render import render

SCENES = 256


def _normalised(backbone: Backbone, images: Tensor) -> Tensor:
    mean = torch.tensor(backbone.mean).view(1, 3, 1, 1)
    std = torch.tensor(backbone.std).view(1, 3, 1, 1)
    return ((images - mean) / std).to(backbone.device)


def _text(backbone: Backbone, texts: list[str]) -> Tensor:
    return F.normalize(backbone.encode_text(texts).float(), dim=-1)


@torch.no_grad()
def check(backbone: Backbone, atlas: Atlas) -> dict[str, float]:
    """Return zero-shot accuracy, mosaic localisation and scene retrieval on the kept-out set."""
    backbone.eval()
    return {**classify(backbone, atlas), **localise(backbone, atlas), **retrieve(backbone, atlas)}


def classify(backbone: Backbone, atlas: Atlas) -> dict[str, float]:
    """Return zero-shot accuracy on single kept-out drawings among all concepts."""
    labels = sorted(atlas.synonyms)
    texts = _text(backbone, [f"a photo of a {name}." for name in labels])
    top1, top5, drawings = [], [], 0
    for images, _, keys in kept_out_singles(atlas):
        truth = torch.tensor([labels.index(key) for key in keys])
        features = F.normalize(backbone.encode_image(_normalised(backbone, images)).float(), dim=-1)
        ranked = (features @ texts.T).topk(5).indices.cpu()  # [n, 5]
        top1.append(float((ranked[:, 0] == truth).float().mean()))
        top5.append(float((ranked == truth[:, None]).any(1).float().mean()))
        drawings = len(keys)
    return {
        "kept_out_top1": float(np.mean(top1)),
        "kept_out_top5": float(np.mean(top5)),
        "kept_out_drawings": drawings,
    }


def kept_out_singles(atlas: Atlas, draws: int = 2) -> Iterator[tuple[Tensor, Tensor, list[str]]]:
    """Yield single kept-out drawings on random backgrounds: images, patch masks [n, M] and concepts."""
    rows = [i for i in atlas.kept_out if atlas.keys[i] in atlas.synonyms]
    for draw in range(draws):
        placed, backgrounds = [], []
        for k, row in enumerate(rows):
            rng = np.random.default_rng([99, draw, k])
            scale, x, y = layout.inside_canvas(rng, float(rng.uniform(0.5, 0.95)))
            angle = float(np.deg2rad(rng.uniform(-12, 12)))
            placed.append(Placed(k, row, scale, x, y, angle, True))
            backgrounds.append(layout.background(rng, "", 1.0))
        images, visible, _ = render(atlas.tensor(rows).float() / 255, placed, backgrounds)
        yield images, _patch_masks(visible), [atlas.keys[row] for row in rows]


def _patch_masks(visible: Tensor) -> Tensor:
    """Return the coverage [n, M] of each patch by each drawing [n, S, S]."""
    return F.adaptive_avg_pool2d(visible.unsqueeze(1), GRID).flatten(1)


def _scenes(
    atlas: Atlas, seed: int, mosaic: bool
) -> tuple[Tensor, Tensor, list[list[Thing]], list[list[int]]]:
    """Compose scenes of kept-out drawings: images, patch masks, visible drawings and their rows in the masks."""
    rows = [i for i in atlas.kept_out if atlas.keys[i] in atlas.synonyms]
    placed: list[Placed] = []
    backgrounds, things, members = [], [], []
    for image in range(SCENES):
        rng = np.random.default_rng([seed, image])
        if mosaic:
            spots = [
                (float(rng.uniform(0.36, 0.48)), 0.25 + 0.5 * (k % 2), 0.25 + 0.5 * (k // 2))
                for k in range(4)
            ]
        else:
            spots = layout.scattered(rng, 0.0)
        chosen: list[int] = []
        while len(chosen) < len(spots):
            row = rows[int(rng.integers(len(rows)))]
            if atlas.keys[row] not in {atlas.keys[c] for c in chosen}:
                chosen.append(row)
        seen, inside = [], []
        for row, (scale, x, y) in zip(chosen, spots, strict=True):
            inside.append(len(placed))
            placed.append(Placed(image, row, scale, x, y, 0.0, True))
            seen.append(Thing(atlas.keys[row], atlas.keys[row], x, y, scale))
        backgrounds.append(layout.background(rng, "", 1.0))
        things.append(seen)
        members.append(inside)
    pixels = atlas.tensor([p.sprite for p in placed]).float() / 255
    images, visible, _ = render(pixels, placed, backgrounds)
    return images, _patch_masks(visible), things, members


def localise(backbone: Backbone, atlas: Atlas) -> dict[str, float]:
    """Return how much of the D-V map lies on the named drawing of a mosaic of four.

    The map is AlignCLIP's guide: the softmax over patches of the scaled cosine with "a photo of a {name}.". Its mass
    is measured on the quadrant of the named drawing (chance 0.25) and on the drawing itself. "difference" is the
    mass on the quadrant with the right text minus the mass there with the text of another of the four.
    """
    images, masks, things, members = _scenes(atlas, 98, mosaic=True)
    named = [f"a photo of a {thing.name}." for seen in things for thing in seen]
    texts = _text(backbone, named).unflatten(0, (len(things), 4))  # [B, 4, d]
    maps = text_maps(backbone, _normalised(backbone, images), texts)  # [B, 4, g, g]
    mass = quadrant_mass(maps)  # [B, 4 texts, 4 quadrants]
    inside = mass.diagonal(dim1=1, dim2=2)  # [B, 4]
    wrong = mass.roll(-1, dims=1).diagonal(dim1=1, dim2=2)  # [B, 4], the text of another of the four
    on_object = (maps.flatten(2) * masks[torch.tensor(members)].clamp(max=1)).sum(-1)  # [B, 4]
    return {
        "mosaic_mass": float(inside.mean()),
        "mosaic_object_mass": float(on_object.mean()),
        "mosaic_difference": float(inside.mean() - wrong.mean()),
    }


def retrieve(backbone: Backbone, atlas: Atlas) -> dict[str, float]:
    """Return text-to-image recall@10 of scenes for captions of one drawing and of all drawings."""
    images, _, things, _ = _scenes(atlas, 97, mosaic=False)
    features = F.normalize(backbone.encode_image(_normalised(backbone, images)).float(), dim=-1)
    recalls = {}
    for name, writer in (("short", lambda seen, rng: describe_one(seen[0], rng)), ("long", describe_all)):
        texts = [writer(seen, np.random.default_rng([96, b])).text for b, seen in enumerate(things)]
        scores = _text(backbone, texts) @ features.T  # [texts, images]
        rank = (scores > scores.diag()[:, None]).sum(1)
        recalls[f"scene_{name}_recall10"] = float((rank < 10).float().mean())
    return {**recalls, "scene_chance10": 10 / len(images)}
