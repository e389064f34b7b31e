"""open_clip's ModifiedResNet: convolution stages under one attention layer, the attention pool.

The pool's query is the mean of the cells (row 0), which stands where a ViT has its class token; the cells of
the last feature map stand for patches. There is one attention layer, and no MLP or residual around it.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import UserError
from .attention import class_attention_row, class_scores, merge_heads, structured
from .dense import DenseFeatures, DenseOptions
from .hooks import Hooks, before


def check(visual: Any) -> None:
    """Refuse a pool that computes something else than attention of the mean over the cells.

    Raises:
        UserError: running the pool both ways gives different features.
    """
    pool = visual.attnpool
    try:
        cells, width = pool.positional_embedding.shape
        side = round((cells - 1) ** 0.5)
        probe = torch.linspace(-2, 2, width * side * side, device=pool.positional_embedding.device).sin()
        probe = probe.view(1, width, side, side).to(pool.positional_embedding.dtype)
        with torch.no_grad():
            known = pool(probe)
            ours = _all_rows(pool, *_heads(pool, probe))[:, 0]
    except (AttributeError, TypeError, RuntimeError) as error:
        raise UserError(f"this ResNet has an attention pool clipalign does not support ({error})") from error
    if (known - ours).norm() > 1e-3 * known.norm():
        raise UserError("this ResNet has an attention pool that clipalign does not support")


def encode(visual: Any, images: Tensor, hooks: Hooks) -> Tensor:
    """[B, 3, H, W] -> [B, d]."""
    return visual.attnpool(_feature_map(visual, images, hooks))


def dense(visual: Any, images: Tensor, request: DenseOptions, hooks: Hooks) -> DenseFeatures:
    """Everything `Backbone.dense` promises, from the attention pool."""
    pool = visual.attnpool
    q, k, v = _heads(pool, _feature_map(visual, images, hooks))
    features = _all_rows(pool, q, k, v)
    patches = features.shape[1] - 1
    attention = features.new_zeros((0, len(features), patches))
    if request.attention_layers:
        row = class_attention_row(class_scores(q, k), request.attention_over)
        attention = row.expand(len(request.attention_layers), -1, -1)
    guide = None
    if request.guide is not None:
        with torch.no_grad() if request.detach_guide else nullcontext():
            guide = pool.c_proj(structured(q, k, v, request.guide, patches=patches))
    return DenseFeatures(
        image=features[:, 0],
        patches=features[:, 1:],
        cls_attention=attention,
        guide=guide,
    )


def _feature_map(visual: Any, images: Tensor, hooks: Hooks) -> Tensor:
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


def _heads(pool: Any, feature_map: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values [B, J, 1 + M, head size] of the mean and of the cells."""
    cells = feature_map.flatten(2).transpose(1, 2)
    tokens = torch.cat([cells.mean(dim=1, keepdim=True), cells], dim=1)
    tokens = tokens + pool.positional_embedding.to(tokens.dtype)
    q, k, v = (
        projection(tokens).unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)
        for projection in (pool.q_proj, pool.k_proj, pool.v_proj)
    )
    return q, k, v


def _all_rows(pool: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[B, 1 + M, d]: row 0 the image feature; the other rows are what the pool gives a cell as its query."""
    return pool.c_proj(merge_heads(F.scaled_dot_product_attention(q, k, v)))
