"""Where a model looks for texts: one map per text, by attention structure and layer, drawn over the photo."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..backbone.attention import STRUCTURES as DENSE
from ..evaluation.maps import (
    PATCHES,
    TracedImages,
    attention_maps,
    encode_texts,
    rollout_maps,
    similarity_maps,
)
from ..explain.figures import overlay
from ..explain.maps import default_settings, settings_of
from ..explain.photo import heat
from ..methods import Method
from ..methods.capabilities import SupportsExplain
from .models import PageModel

OPACITY = 0.6  # of maps; the picture below them stays recognisable
ATTENTION, ROLLOUT = "attention", "rollout"  # of the class token, the same for every text
STRUCTURES = {
    **{name: f"{'-'.join(name.upper())}: {text}" for name, text in DENSE.items()},
    PATCHES: "patch tokens of the last layer",
    ATTENTION: "attention of the class token (same for all texts)",
    ROLLOUT: "attention rollout (same for all texts)",
}
PUBLISHED = "as published"  # layers that the method trains with, else AlignCLIP's
ALL = "all"


def layer_choices(model: PageModel) -> list[str]:
    """Return the layers to choose from: `PUBLISHED`, `ALL`, then numbers from "0"."""
    return [PUBLISHED, ALL, *map(str, range(model.method.backbone.num_blocks))]


@torch.no_grad()
def text_maps(
    traced: TracedImages, texts: Sequence[str], structure: str, layer: str, *, distinct: bool = False
) -> Tensor:
    """Return one map per text on the grid of patches.

    Args:
        traced: one pass of a method over one image.
        texts: T class names, encoded as for the method's answers.
        structure: a key of `STRUCTURES`.
        layer: one of `layer_choices`; no effect on `PATCHES`.
        distinct: subtract what all texts share, as CLIP Surgery; no effect on a single text.

    Returns:
        [T, gh, gw] float32 on the CPU, not scaled for display.
    """
    method = traced.model
    assert isinstance(method, Method)
    settings = settings_of(method) or default_settings(method.backbone.num_blocks)
    chosen = None if layer == ALL else (int(layer),) if layer != PUBLISHED else ()
    if structure == ATTENTION:
        layers = settings.layers if layer == PUBLISHED else chosen
        return _repeat(attention_maps(traced, layers=layers, over=settings.attention_over), len(texts))
    if structure == ROLLOUT:
        return _repeat(rollout_maps(traced, layers=None if layer == PUBLISHED else chosen), len(texts))
    blocks = range(method.backbone.num_blocks)
    if isinstance(method, SupportsExplain):
        text = encode_texts(method, texts, traced.images)  # [1, T, d]
    else:
        text = method.text_features(texts)  # [T, d]
    if structure == settings.guide and settings.class_mean is not None:
        text = text - text.new_tensor(settings.class_mean)
    layers = tuple(blocks)[-settings.dual_blocks :] if layer == PUBLISHED else chosen or tuple(blocks)
    return similarity_maps(
        traced,
        None,
        text,
        structure,
        layers=None if structure == PATCHES else layers,
        keep_mlp=settings.keep_mlp,
        redundancy_removal=distinct and len(texts) > 1,
    )[0]  # [1, T, gh, gw] -> [T, gh, gw]


def _repeat(maps: Tensor, count: int) -> Tensor:
    """Return the map of one image once per text: [1, gh, gw] -> [T, gh, gw]."""
    return maps.expand(count, -1, -1)


def draw(visible: np.ndarray, found: Tensor) -> np.ndarray:
    """Draw a map [gh, gw], scaled to its range, over a picture [H, W, 3] in [0, 1]: [H, W, 3] uint8."""
    size = (visible.shape[0], visible.shape[1])
    return to_bytes(overlay(visible, heat(found, size), OPACITY))


def to_bytes(picture: np.ndarray) -> np.ndarray:
    """Convert a picture in [0, 1] to uint8."""
    return (picture * 255).round().astype(np.uint8)
