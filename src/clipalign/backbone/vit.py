"""open_clip's VisionTransformer, computed block by block.

The second path ("guide") follows CLIP Surgery as AlignCLIP uses it: in the last `dual_blocks` blocks, an attention of
another structure runs beside the original one. It reads the first LayerNorm of the *original* path, has no MLP by
default, and its outputs are added to the tokens that entered the first dual block:

    x_n = x at the first dual block + sum over dual blocks of W_O . structured(q, k, v) + b_O

followed by the tower's last LayerNorm and projection. Queries, keys and values are those of the original path, so the
identity structure costs one output projection per block.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..core.errors import UserError
from .attention import class_attention_row, class_scores, merge_heads, project, structured
from .dense import DenseFeatures, DenseOptions
from .hooks import Hooks, before, run_block
from .towers import Block, VisionTransformer, differs
from .trace import Trace


def check(visual: VisionTransformer) -> None:
    """Refuse a tower that this module would compute wrongly.

    Each block is run both by open_clip and by this module, which also covers variants of open_clip that did not exist
    when this was written.

    Raises:
        UserError: image features are not the projected class token, or the outputs of a block differ.
    """
    if visual.attn_pool is not None or visual.pool_type != "tok" or visual.proj is None:
        raise UserError("this vision tower does not pool by its class token, which clipalign's methods need")
    transformer, like = visual.transformer, visual.class_embedding
    width = like.shape[0]
    probe = torch.linspace(-2, 2, 2 * 3 * width, device=like.device).sin().view(2, 3, width).to(like.dtype)
    with torch.no_grad():
        for i, block in enumerate(transformer.resblocks):
            try:
                expected = run_block(transformer, block, probe)
                actual = run_with_heads(block, probe)[0]
            except (AttributeError, TypeError, RuntimeError) as error:
                raise UserError(f"vision block {i} is not supported ({error})") from error
            if differs(actual, expected):
                raise UserError(
                    f"vision block {i} is not supported: it is not x + attention(LN(x)), then x + MLP(LN(x))"
                )


def layout(visual: VisionTransformer) -> tuple[int, tuple[int, int]]:
    """Return the number of blocks, and the rows and columns of the patch grid."""
    rows, columns = visual.grid_size
    return len(visual.transformer.resblocks), (rows, columns)


def embed(visual: VisionTransformer, images: Tensor, hooks: Hooks) -> tuple[Tensor, int]:
    """Return the tokens that enter block 0, [B, 1 + M (+ prompts), W], and M.

    M is less than the number of grid cells if patch dropout is active.
    """
    x = visual.conv1(images).flatten(2).transpose(1, 2)  # [B, W, rows, columns] -> [B, M, W]
    if hooks.tap is not None:
        hooks.tap("vision", -1, x)
    x = torch.cat([visual.class_embedding.to(x.dtype).expand(len(x), 1, -1), x], dim=1)  # [B, 1 + M, W]
    x = visual.patch_dropout(x + visual.positional_embedding.to(x.dtype))
    patches = x.shape[1] - 1
    if hooks.vision_input is not None:
        x = hooks.vision_input(x)
    return visual.ln_pre(x), patches


def encode(visual: VisionTransformer, images: Tensor, hooks: Hooks) -> Tensor:
    """Return image features: [B, 3, H, W] -> [B, d]."""
    x, _ = embed(visual, images, hooks)
    for i, block in enumerate(visual.transformer.resblocks):
        x = run_block(visual.transformer, block, before(hooks.vision, i, x))
        if hooks.tap is not None:
            hooks.tap("vision", i, x)
    return visual.ln_post(x[:, 0]) @ visual.proj  # [B, W] @ [W, d] -> [B, d]


def run_with_heads(block: Block, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return a block's output [B, N, W] and its queries, keys and values, each [B, H, N, W/H]."""
    q, k, v = project(block.attn, block.ln_1(x))
    attended = merge_heads(F.scaled_dot_product_attention(q, k, v))  # [B, H, N, W/H] -> [B, N, W]
    x = x + block.ls_1(block.attn.out_proj(attended))
    x = x + block.ls_2(block.mlp(block.ln_2(x)))
    return x, q, k, v


def dense(visual: VisionTransformer, images: Tensor, options: DenseOptions, hooks: Hooks) -> DenseFeatures:
    """Compute `Backbone.dense` in one pass through the tower."""
    x, patches = embed(visual, images, hooks)
    blocks = visual.transformer.resblocks
    first_dual = len(blocks) - options.dual_blocks if options.guide else len(blocks)
    save_memory = visual.transformer.grad_checkpointing and torch.is_grad_enabled()
    attention: dict[int, Tensor] = {}  # layer -> [B, M]
    second: Tensor | None = None  # tokens of the second path

    for i, block in enumerate(blocks):
        x = before(hooks.vision, i, x)
        if i == first_dual:
            second = x[:, 1 : 1 + patches]  # [B, M, W], without class token and prompts
        if i not in options.attention_layers and i < first_dual:
            x = run_block(visual.transformer, block, x)
        else:
            if save_memory:
                x, q, k, v = checkpoint(run_with_heads, block, x, use_reentrant=False)
            else:
                x, q, k, v = run_with_heads(block, x)
            if i in options.attention_layers:
                scores = class_scores(q, k)[..., : 1 + patches]  # [B, H, 1 + M], without prompts
                attention[i] = class_attention_row(scores, options.attention_over)
            if second is not None:
                assert options.guide is not None
                with torch.no_grad() if options.detach_guide else nullcontext():
                    second = _second_path(block, second, (q, k, v), options.guide, options.keep_mlp)
        if hooks.tap is not None:
            hooks.tap("vision", i, x)

    features = visual.ln_post(x[:, : 1 + patches]) @ visual.proj  # [B, 1 + M, d]
    guide = None
    if second is not None:
        with torch.no_grad() if options.detach_guide else nullcontext():
            guide = visual.ln_post(second) @ visual.proj  # [B, M, d]
    layers = [attention[i] for i in options.attention_layers]
    return DenseFeatures(
        image=features[:, 0],
        patches=features[:, 1:],
        cls_attention=torch.stack(layers) if layers else x.new_zeros((0, len(x), patches)),  # [L, B, M]
        guide=guide,
    )


def trace(visual: VisionTransformer, images: Tensor, hooks: Hooks) -> Trace:
    """Compute `Backbone.trace` in one pass through the tower."""
    x, patches = embed(visual, images, hooks)
    blocks = visual.transformer.resblocks
    entering, projected = [], []  # per block: patch tokens [B, M, W]; queries, keys and values
    for i, block in enumerate(blocks):
        x = before(hooks.vision, i, x)
        entering.append(x[:, 1 : 1 + patches])
        x, q, k, v = run_with_heads(block, x)
        projected.append((q, k, v))
        if hooks.tap is not None:
            hooks.tap("vision", i, x)

    def second_path(
        structure: str, layers: Sequence[int], heads: Sequence[int] | None, keep_mlp: bool
    ) -> Tensor:
        second = entering[layers[0]]  # [B, M, W]
        for i in layers:
            second = _second_path(blocks[i], second, projected[i], structure, keep_mlp, heads)
        return visual.ln_post(second) @ visual.proj  # [B, M, d]

    features = visual.ln_post(x[:, : 1 + patches]) @ visual.proj  # [B, 1 + M, d]
    return Trace(features[:, 0], features[:, 1:], tuple(projected), second_path)


def _second_path(
    block: Block,
    x: Tensor,
    projected: tuple[Tensor, Tensor, Tensor],
    structure: str,
    keep_mlp: bool,
    heads: Sequence[int] | None = None,
) -> Tensor:
    """Return the patch tokens [B, M, W] of the second path after one block.

    This must run after the original path has used the same weights: autocast caches half-precision copies of weights,
    and a copy made under `no_grad` would cut the gradient of the original path.
    """
    x = x + block.ls_1(block.attn.out_proj(structured(*projected, structure, x.shape[1], heads)))
    if keep_mlp:
        x = x + block.ls_2(block.mlp(block.ln_2(x)))
    return x
