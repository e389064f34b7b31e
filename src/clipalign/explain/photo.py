"""Maps of one photo for texts, from one or several models."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..backbone import preprocess_for
from ..evaluation.maps import trace
from ..losses import cosine_logits, unit_features
from ..methods import Method, explain_text_features
from ..methods.capabilities import MapSettings
from .kinds import MapKind, shares
from .maps import default_settings, settings_of
from .scores import min_max, upsample
from .windows import Box, crop, view_of

LONGEST, SHORTEST = 640, 320  # pixels of the longer side of a photo on the screen
BATCH = 8  # windows per forward pass, of which all layers stay in memory


@dataclass(frozen=True)
class NamedModel:
    """A model to explain.

    Attributes:
        name: name in files, such as "zero-shot" or the method; unique.
        title: title of its column, such as "after alignclip"; unique.
        method: set up, with its weights.
    """

    name: str
    title: str
    method: Method


@dataclass(frozen=True)
class Explanation:
    """Maps and cosines of one model for a photo.

    Attributes:
        model: the model.
        maps: by key of the kind, [T, Gh, Gw], T being 1 for maps without text; float32, not scaled for display.
        cosines: cosine of the image feature of the centre view and each text feature.
        covered: part of the photo that the maps cover.
        centre: part of the photo that predictions see.
    """

    model: NamedModel
    maps: dict[str, Tensor]
    cosines: tuple[float, ...]
    covered: Box
    centre: Box


def shared_settings(models: Sequence[NamedModel]) -> MapSettings:
    """Return the layers and the guide of the last model that trains them, else the published ones.

    All models are drawn with the same settings, so that their maps can be compared.
    """
    trained = [settings for model in models if (settings := settings_of(model.method)) is not None]
    return trained[-1] if trained else default_settings(num_layers(models))


def num_layers(models: Sequence[NamedModel]) -> int:
    """Return the number of attention layers that all models have."""
    return min(model.method.backbone.num_blocks for model in models)


@torch.no_grad()
def explain_photo(
    model: NamedModel,
    picture: Image.Image,
    texts: Sequence[str],
    kinds: Sequence[MapKind],
    *,
    whole: bool = True,
) -> Explanation:
    """Compute the maps of one model, prompts inside its towers included.

    Args:
        model: the model.
        picture: photo.
        texts: T texts, encoded without a template.
        kinds: kinds of maps.
        whole: cover the whole photo with windows; else only the centre view.

    Raises:
        UserError: an elongated photo (see `view_of`); a layer or head that the tower does not have; removal of
            redundancy with a single text.
    """
    method, backbone = model.method, model.method.backbone
    view = view_of(picture, preprocess_for(backbone), backbone.grid, whole=whole)
    text = explain_text_features(method, texts, view.images[:1].to(backbone.device))  # [T, d]
    parts: dict[str, list[Tensor]] = defaultdict(list)
    feature: Tensor | None = None
    for start in range(0, len(view.images), BATCH):
        traced = trace(method, view.images[start : start + BATCH])
        if feature is None:
            feature = traced.trace.image[:1]  # [1, d], of the centre view
        # Weights of the texts come from the centre view, so that overlapping windows agree.
        image = feature.expand(len(traced.images), -1)  # [b, d]
        traced = replace(traced, trace=replace(traced.trace, image=image))
        for kind in kinds:
            parts[kind.key].append(kind.compute(traced, text))
    maps = {kind.key: view.merge(torch.cat(parts[kind.key])) for kind in kinds}  # [T, Gh, Gw]
    maps |= {kind.key: shares(maps[kind.key]) for kind in kinds if not kind.per_text}
    assert feature is not None
    cosines = cosine_logits(unit_features(feature), text, 1.0)[0].tolist()
    return Explanation(model, maps, tuple(cosines), view.covered, view.centre)


def raw_maps(explanations: Sequence[Explanation], kinds: Sequence[MapKind]) -> dict[str, np.ndarray]:
    """Return the maps as arrays for a file: `NAME_KEY`, [Gh, Gw] without text and [T, Gh, Gw] with texts."""
    return {
        f"{each.model.name}_{kind.key}": (
            each.maps[kind.key] if kind.per_text else each.maps[kind.key][0]
        ).numpy()
        for each in explanations
        for kind in kinds
    }


def on_screen(picture: Image.Image, box: Box) -> np.ndarray:
    """Return a part of a photo at the resolution of a screen: [H, W, 3] in [0, 1]."""
    part = crop(picture, box)
    scale = min(1.0, LONGEST / max(part.size)) * max(1.0, SHORTEST / max(part.size))
    size = (max(1, round(part.width * scale)), max(1, round(part.height * scale)))
    return np.asarray(part.resize(size, Image.Resampling.LANCZOS), dtype=np.float64) / 255


def heat(maps: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Upsample a map [gh, gw] to `size` and scale it to [0, 1]: [H, W]."""
    return min_max(upsample(maps[None], size))[0].numpy().astype(np.float64)
