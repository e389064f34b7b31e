"""Where a model looks for texts: one map per text, by attention structure and layer, drawn over the photo."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor

from ..explain.figures import overlay
from ..explain.maps import default_settings, make_maps, settings_of
from ..explain.photo import heat
from ..methods import SupportsHooks
from ..methods.capabilities import MapSettings, SupportsExplain
from .models import PageModel

OPACITY = 0.6  # of maps; the picture below them stays recognisable
# Structure -> label. "attention" is the class token's and the same for every text.
STRUCTURES = {
    "dv": "D-V with the text",
    "vvv": "V-V-V with the text",
    "qqv": "Q-Q-V with the text",
    "kkv": "K-K-V with the text",
    "qkv": "patch tokens (Q-K-V) with the text",
    "attention": "attention of the class token",
}


PUBLISHED = "as published"  # layers that the method trains with, else those of the publication


def layer_choices(model: PageModel) -> list[str]:
    """Return the layers to choose from: `PUBLISHED`, then numbers from "0"."""
    return [PUBLISHED, *map(str, range(model.method.backbone.num_blocks))]


@torch.no_grad()
def text_maps(model: PageModel, view: Tensor, texts: Sequence[str], structure: str, layer: str) -> Tensor:
    """Return one map per text on the grid of patches.

    Args:
        model: the model, whose hooks and learned prompts apply.
        view: model input, [1, 3, H, W].
        texts: T class names, encoded as for its answers.
        structure: a key of `STRUCTURES`.
        layer: one of `layer_choices`. Of "attention", the layer; of a second path, the layer in which it begins. "qkv"
            ignores it: patch tokens are those of the last layer.

    Returns:
        [T, gh, gw] float32 on the CPU, not scaled for display.
    """
    method = model.method
    backbone = method.backbone
    settings = settings_of(method) or default_settings(backbone.num_blocks)
    guide = settings.guide if structure in ("attention", "qkv") else structure
    settings = MapSettings(
        settings.layers if layer == PUBLISHED else (int(layer),),
        settings.dual_blocks if layer == PUBLISHED else backbone.num_blocks - int(layer),
        guide,
        settings.attention_over,
        settings.keep_mlp,
        settings.class_mean if guide == settings.guide else None,
    )
    view = view.to(backbone.device)
    if isinstance(method, SupportsExplain):
        text = method.explain_text_features(texts, view)  # [T, d]
    else:
        text = method.text_features(texts)  # [T, d]
    with method.hooks() if isinstance(method, SupportsHooks) else nullcontext():
        maps = make_maps(backbone, view, text, settings)
    if structure == "attention":
        return maps.attention.expand(len(texts), -1, -1)  # [1, gh, gw] -> [T, gh, gw]
    return (maps.patches if structure == "qkv" else maps.guide)[0]  # [1, T, gh, gw] -> [T, gh, gw]


def draw(visible: np.ndarray, found: Tensor) -> np.ndarray:
    """Draw a map [gh, gw], scaled to its range, over a picture [H, W, 3] in [0, 1]: [H, W, 3] uint8."""
    size = (visible.shape[0], visible.shape[1])
    return to_bytes(overlay(visible, heat(found, size), OPACITY))


def to_bytes(picture: np.ndarray) -> np.ndarray:
    """Convert a picture in [0, 1] to uint8."""
    return (picture * 255).round().astype(np.uint8)
