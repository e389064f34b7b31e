"""Image towers that are only run as a whole: features, and outputs of their stages or blocks."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn

from ..core.errors import UserError
from .dense import DenseFeatures, DenseOptions
from .families import FAMILIES, Capability
from .hooks import Hooks
from .trace import Trace


def check(visual: Any) -> None:
    """Accept every tower."""


def layout(visual: Any) -> tuple[int, tuple[int, int]]:
    """Return no attention layers and no grid."""
    return 0, (0, 0)


def layers(visual: Any) -> list[nn.Module]:
    """Return the stem and the stages or blocks; empty for an unknown structure."""
    trunk = getattr(visual, "trunk", visual)
    transformer = getattr(trunk, "transformer", None)
    stem = next(
        (m for n in ("stem", "patch_embed", "conv1") if (m := getattr(trunk, n, None)) is not None), None
    )
    blocks = next((m for n in ("stages", "blocks") if (m := getattr(trunk, n, None)) is not None), None)
    blocks = getattr(transformer, "resblocks", blocks)
    return [] if stem is None or blocks is None else [stem, *blocks]


def num_layers(visual: Any) -> int:
    """Return the number of stages or blocks."""
    return max(0, len(layers(visual)) - 1)


def width(visual: Any) -> int:
    """Raise: there are no tokens that methods could extend."""
    raise UserError("this image tower takes no prompts")


def capabilities(visual: Any) -> frozenset[Capability]:
    """Return what the tower offers beyond features."""
    return FAMILIES["other"].capabilities if layers(visual) else frozenset()


def encode(visual: Any, images: Tensor, hooks: Hooks) -> Tensor:
    """Return image features: [B, 3, H, W] -> [B, d].

    Raises:
        UserError: hooks that change tokens.
    """
    if hooks.vision is not None or hooks.vision_input is not None:
        raise UserError("prompts inside the image tower need a ViT with a class token")
    handles = []
    if hooks.tap is not None:
        tap = hooks.tap

        def report(layer: int, module: nn.Module, inputs: Any, output: Tensor) -> None:
            tap("vision", layer, output.flatten(2).transpose(1, 2) if layer < 0 and is_vit else output)

        # The patch convolution of a ViT gives [B, W, rows, columns], which `Hooks` documents as tokens [B, M, W].
        is_vit = hasattr(visual, "transformer")
        handles = [m.register_forward_hook(partial(report, i - 1)) for i, m in enumerate(layers(visual))]
    try:
        features = visual(images)
    finally:
        for handle in handles:
            handle.remove()
    return features[0] if isinstance(features, tuple) else features  # CoCa's towers return tokens too


def dense(visual: Any, images: Tensor, options: DenseOptions, hooks: Hooks) -> DenseFeatures:
    """Raise: `Backbone.dense` refuses such towers first."""
    raise UserError("this image tower has no image tokens")


def trace(visual: Any, images: Tensor, hooks: Hooks) -> Trace:
    """Raise: `Backbone.trace` refuses such towers first."""
    raise UserError("this image tower has no image tokens")
