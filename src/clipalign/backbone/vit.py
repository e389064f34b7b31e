"""open_clip's VisionTransformer, walked block by block.

The second path ("guide") follows CLIP Surgery as AlignCLIP uses it: in the last `dual_blocks` blocks an
attention of another structure runs beside the original one. Its input is the first LayerNorm of the
*original* path, it has no MLP unless asked, and its outputs add up on what entered the first dual block:

    x_n = x at the first dual block + sum over dual blocks of W_O . structured(q, k, v) + b_O

then the tower's last LayerNorm and projection. Queries, keys and values are those of the original path, so
the identity structure costs one output projection per block.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..core.errors import UserError
from .attention import class_attention_row, class_scores, merge_heads, project, structured
from .dense import DenseFeatures, DenseOptions
from .hooks import Hooks, before, run_block


def check(visual: Any) -> None:
    """Refuse a tower whose features this module would get wrong.

    Raises:
        UserError: image features are not the projected class token, or a block computes something else than
            x + attention(LN(x)), then x + MLP(LN(x)). The latter is found by running each block both ways,
            which also covers variants of open_clip this package has never seen.
    """
    if visual.attn_pool is not None or visual.pool_type != "tok" or visual.proj is None:
        raise UserError("this vision tower does not pool by its class token, which clipalign's methods need")
    transformer = visual.transformer
    width = visual.class_embedding.shape[0]
    probe = torch.linspace(-2, 2, 2 * 3 * width, device=visual.class_embedding.device).sin().view(2, 3, width)
    probe = probe.to(visual.class_embedding.dtype)
    with torch.no_grad():
        for i, block in enumerate(transformer.resblocks):
            try:
                known = run_block(transformer, block, probe)
                ours = run_with_heads(block, probe)[0]
            except (AttributeError, TypeError, RuntimeError) as error:
                raise UserError(
                    f"vision block {i} is of a kind clipalign does not support ({error})"
                ) from error
            if (known - ours).norm() > 1e-3 * known.norm():
                raise UserError(f"vision block {i} does not compute what clipalign takes it for")


def embed(visual: Any, images: Tensor, hooks: Hooks) -> tuple[Tensor, int]:
    """Images to the tokens that enter block 0, [B, 1 + M (+ prompts), W], and M."""
    x = visual.conv1(images).flatten(2).transpose(1, 2)
    if hooks.tap is not None:
        hooks.tap("vision", -1, x)
    x = torch.cat([visual.class_embedding.to(x.dtype).expand(len(x), 1, -1), x], dim=1)
    x = visual.patch_dropout(x + visual.positional_embedding.to(x.dtype))
    patches = x.shape[1] - 1
    if hooks.vision_input is not None:
        x = hooks.vision_input(x)
    return visual.ln_pre(x), patches


def encode(visual: Any, images: Tensor, hooks: Hooks) -> Tensor:
    """[B, 3, H, W] -> [B, d]."""
    x, _ = embed(visual, images, hooks)
    for i, block in enumerate(visual.transformer.resblocks):
        x = run_block(visual.transformer, block, before(hooks.vision, i, x))
        if hooks.tap is not None:
            hooks.tap("vision", i, x)
    return visual.ln_post(x[:, 0]) @ visual.proj


def run_with_heads(block: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A block's output on [B, N, W] together with its queries, keys and values [B, J, N, W/J]."""
    q, k, v = project(block.attn, block.ln_1(x))
    x = x + block.ls_1(block.attn.out_proj(merge_heads(F.scaled_dot_product_attention(q, k, v))))
    x = x + block.ls_2(block.mlp(block.ln_2(x)))
    return x, q, k, v


def dense(visual: Any, images: Tensor, request: DenseOptions, hooks: Hooks) -> DenseFeatures:
    """Everything `Backbone.dense` promises, in one pass through the tower."""
    x, patches = embed(visual, images, hooks)
    blocks = visual.transformer.resblocks
    first_dual = len(blocks) - request.dual_blocks if request.guide else len(blocks)
    save_memory = visual.transformer.grad_checkpointing and torch.is_grad_enabled()
    rows: dict[int, Tensor] = {}
    second: Tensor | None = None

    for i, block in enumerate(blocks):
        x = before(hooks.vision, i, x)
        if i == first_dual:
            second = x[:, 1 : 1 + patches]
        if i not in request.attention_layers and i < first_dual:
            x = run_block(visual.transformer, block, x)
        else:
            if save_memory:
                x, q, k, v = checkpoint(run_with_heads, block, x, use_reentrant=False)
            else:
                x, q, k, v = run_with_heads(block, x)
            if i in request.attention_layers:
                rows[i] = class_attention_row(class_scores(q, k)[..., : 1 + patches], request.attention_over)
            if second is not None:
                second = _second_path(block, second, (q, k, v), request)
        if hooks.tap is not None:
            hooks.tap("vision", i, x)

    features = visual.ln_post(x[:, : 1 + patches]) @ visual.proj
    guide = None
    if second is not None:
        with torch.no_grad() if request.detach_guide else nullcontext():
            guide = visual.ln_post(second) @ visual.proj
    attention = [rows[i] for i in request.attention_layers]
    return DenseFeatures(
        image=features[:, 0],
        patches=features[:, 1:],
        cls_attention=torch.stack(attention) if attention else x.new_zeros((0, len(x), patches)),
        guide=guide,
    )


def _second_path(
    block: Any, x: Tensor, heads: tuple[Tensor, Tensor, Tensor], request: DenseOptions
) -> Tensor:
    """The patches' tokens [B, M, W] of the second path behind one block.

    Runs after the original path has used the same weights: autocast keeps the half-precision copies that it
    makes, and a copy made without gradient would cut the gradient of the original path.
    """
    assert request.guide is not None
    with torch.no_grad() if request.detach_guide else nullcontext():
        x = x + block.ls_1(block.attn.out_proj(structured(*heads, request.guide, patches=x.shape[1])))
        if request.keep_mlp:
            x = x + block.ls_2(block.mlp(block.ln_2(x)))
    return x
