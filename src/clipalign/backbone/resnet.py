"""open_clip's ModifiedResNet: convolution stages, then one attention layer, the attention pool.

The pool's query is the mean of the cells of the last feature map (position 0), which takes the place of a ViT's class
token; the cells take that of patches. The layer has neither an MLP nor a residual connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import UserError
from .attention import class_attention_row, class_scores, merge_heads, structured
from .dense import DenseFeatures, DenseOptions
from .families import FAMILIES, Capability
from .hooks import Hooks, before
from .towers import AttentionPool, ModifiedResNet, differs
from .trace import Trace


def check(visual: ModifiedResNet) -> None:
    """Refuse an attention pool that this module would compute wrongly.

    Raises:
        UserError: the pool fails, or gives other features than this module does.
    """
    pool = visual.attnpool
    if pool.positional_embedding.is_meta:  # no values to compare
        return
    try:
        like = pool.positional_embedding
        rows, columns = layout(visual)[1]
        probe = torch.linspace(-2, 2, like.shape[1] * rows * columns, device=like.device).sin()
        probe = probe.view(1, -1, rows, columns).to(like.dtype)  # [1, C, rows, columns]
        with torch.no_grad():
            expected = pool(probe)
            actual = _pool_all(pool, *_project(pool, probe))[:, 0]
    except (AttributeError, TypeError, RuntimeError) as error:
        raise UserError(f"the attention pool of this ResNet is not supported ({error})") from error
    if differs(actual, expected):
        raise UserError("the attention pool of this ResNet is not supported: its features differ")


def layout(visual: ModifiedResNet) -> tuple[int, tuple[int, int]]:
    """Return the number of attention layers, which is 1, and the rows and columns of the feature map."""
    side = round((visual.attnpool.positional_embedding.shape[0] - 1) ** 0.5)
    return 1, (side, side)


def num_layers(visual: ModifiedResNet) -> int:
    """Return the number of stages."""
    return 4


def width(visual: ModifiedResNet) -> int:
    """Raise: a ResNet has no tokens that methods could extend."""
    raise UserError("prompts inside the image tower need a ViT; this backbone is a ResNet")


def capabilities(visual: ModifiedResNet) -> frozenset[Capability]:
    """Return what the tower offers beyond features."""
    return FAMILIES["resnet"].capabilities


def encode(visual: ModifiedResNet, images: Tensor, hooks: Hooks) -> Tensor:
    """Return image features: [B, 3, H, W] -> [B, d]."""
    return visual.attnpool(_feature_map(visual, images, hooks))


def dense(visual: ModifiedResNet, images: Tensor, options: DenseOptions, hooks: Hooks) -> DenseFeatures:
    """Compute `Backbone.dense` from the attention pool."""
    pool = visual.attnpool
    q, k, v = _project(pool, _feature_map(visual, images, hooks))
    features = _pool_all(pool, q, k, v)  # [B, 1 + M, d]
    patches = features.shape[1] - 1
    attention = features.new_zeros((0, len(features), patches))
    if options.attention_layers:
        row = class_attention_row(class_scores(q, k), options.attention_over)  # [B, M]
        attention = row.expand(len(options.attention_layers), -1, -1)  # [L, B, M]
    guide = None
    if options.guide is not None:
        with torch.no_grad() if options.detach_guide else nullcontext():
            guide = pool.c_proj(structured(q, k, v, options.guide, patches=patches))  # [B, M, d]
    return DenseFeatures(
        image=features[:, 0],
        patches=features[:, 1:],
        cls_attention=attention,
        guide=guide,
    )


def trace(visual: ModifiedResNet, images: Tensor, hooks: Hooks) -> Trace:
    """Compute `Backbone.trace` from the attention pool, which has neither a residual connection nor an MLP."""
    pool = visual.attnpool
    q, k, v = _project(pool, _feature_map(visual, images, hooks))
    features = _pool_all(pool, q, k, v)  # [B, 1 + M, d]
    patches = features.shape[1] - 1

    def second_path(
        structure: str, layers: Sequence[int], heads: Sequence[int] | None, keep_mlp: bool
    ) -> Tensor:
        return pool.c_proj(structured(q, k, v, structure, patches, heads=heads))  # [B, M, d]

    return Trace(features[:, 0], features[:, 1:], ((q, k, v),), second_path)


def _feature_map(visual: ModifiedResNet, images: Tensor, hooks: Hooks) -> Tensor:
    """Return the last feature map, [B, C, rows, columns]."""
    if hooks.vision_input is not None:
        raise UserError("visual prompts at the input need a ViT; this backbone is a ResNet")
    x = visual.stem(images)
    if hooks.tap is not None:
        hooks.tap("vision", -1, x)
    for i, stage in enumerate((visual.layer1, visual.layer2, visual.layer3, visual.layer4)):
        x = stage(before(hooks.vision, i, x))
        if hooks.tap is not None:
            hooks.tap("vision", i, x)
    return x


def _project(pool: AttentionPool, feature_map: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values [B, H, 1 + M, C/H] of the mean and of the cells."""
    cells = feature_map.flatten(2).transpose(1, 2)  # [B, C, rows, columns] -> [B, M, C]
    tokens = torch.cat([cells.mean(dim=1, keepdim=True), cells], dim=1)  # [B, 1 + M, C]
    tokens = tokens + pool.positional_embedding.to(tokens.dtype)
    q, k, v = (
        projection(tokens).unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)  # [B, H, 1 + M, C/H]
        for projection in (pool.q_proj, pool.k_proj, pool.v_proj)
    )
    return q, k, v


def _pool_all(pool: AttentionPool, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return the pool's output [B, 1 + M, d] for every query: the image feature, then one per cell."""
    return pool.c_proj(merge_heads(F.scaled_dot_product_attention(q, k, v)))  # [B, 1 + M, C] -> [B, 1 + M, d]
