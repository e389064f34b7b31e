"""open_clip's VisionTransformer with a class token, as parts for `blocks`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import UserError
from .attention import merge_heads, project
from .blocks import dense_class_token, encode_class_token, trace_class_token
from .dense import DenseFeatures, DenseOptions
from .families import FAMILIES, Capability
from .hooks import Hooks, run_block
from .towers import Block, VisionTransformer, differs
from .trace import Trace


class OpenClipParts:
    """The steps of open_clip's VisionTransformer; see `blocks.Parts`."""

    def __init__(self, visual: VisionTransformer) -> None:
        self.visual = visual

    @property
    def blocks(self) -> Sequence[Block]:
        return cast(Sequence[Block], self.visual.transformer.resblocks)

    @property
    def save_memory(self) -> bool:
        return self.visual.transformer.grad_checkpointing

    def embed(self, images: Tensor, hooks: Hooks) -> tuple[Tensor, int]:
        """Return the tokens that enter block 0, [B, 1 + M (+ prompts), W], and M.

        M is less than the number of grid cells if patch dropout is active.
        """
        visual = self.visual
        x = visual.conv1(images).flatten(2).transpose(1, 2)  # [B, W, rows, columns] -> [B, M, W]
        if hooks.tap is not None:
            hooks.tap("vision", -1, x)
        x = torch.cat([visual.class_embedding.to(x.dtype).expand(len(x), 1, -1), x], dim=1)  # [B, 1 + M, W]
        x = visual.patch_dropout(x + visual.positional_embedding.to(x.dtype))
        patches = x.shape[1] - 1
        if hooks.vision_input is not None:
            x = hooks.vision_input(x)
        return visual.ln_pre(x), patches

    def run(self, block: Block, x: Tensor) -> Tensor:
        return run_block(self.visual.transformer, block, x)

    def run_with_heads(self, block: Block, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        q, k, v = project(block.attn, block.ln_1(x))
        attended = merge_heads(F.scaled_dot_product_attention(q, k, v))  # [B, H, N, W/H] -> [B, N, W]
        x = x + self.attention_output(block, attended)
        x = x + self.mlp_output(block, x)
        return x, q, k, v

    def attention_output(self, block: Block, attended: Tensor) -> Tensor:
        return block.ls_1(block.attn.out_proj(attended))

    def mlp_output(self, block: Block, x: Tensor) -> Tensor:
        return block.ls_2(block.mlp(block.ln_2(x)))

    def project(self, x: Tensor) -> Tensor:
        return self.visual.ln_post(x) @ self.visual.proj  # [..., W] @ [W, d] -> [..., d]


def check(visual: VisionTransformer) -> None:
    """Refuse a tower that this module would compute wrongly.

    Each block is run both by open_clip and by this module, which also covers variants of open_clip that did not exist
    when this was written.

    Raises:
        UserError: image features are not the projected class token, or the outputs of a block differ.
    """
    if visual.attn_pool is not None or visual.pool_type != "tok" or visual.proj is None:
        raise UserError("this vision tower does not pool by its class token, which clipalign's methods need")
    parts, like = OpenClipParts(visual), visual.class_embedding
    if like.is_meta:  # no values to compare
        return
    width = like.shape[0]
    probe = torch.linspace(-2, 2, 2 * 3 * width, device=like.device).sin().view(2, 3, width).to(like.dtype)
    with torch.no_grad():
        for i, block in enumerate(parts.blocks):
            try:
                expected = parts.run(block, probe)
                actual = parts.run_with_heads(block, probe)[0]
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


def num_layers(visual: VisionTransformer) -> int:
    """Return the number of blocks."""
    return len(visual.transformer.resblocks)


def width(visual: VisionTransformer) -> int:
    """Return the token width."""
    return int(visual.class_embedding.shape[-1])


def capabilities(visual: VisionTransformer) -> frozenset[Capability]:
    """Return what the tower offers beyond features."""
    return FAMILIES["vit"].capabilities


def encode(visual: VisionTransformer, images: Tensor, hooks: Hooks) -> Tensor:
    """Return image features: [B, 3, H, W] -> [B, d]."""
    return encode_class_token(OpenClipParts(visual), images, hooks)


def dense(visual: VisionTransformer, images: Tensor, options: DenseOptions, hooks: Hooks) -> DenseFeatures:
    """Compute `Backbone.dense` in one pass through the tower."""
    return dense_class_token(OpenClipParts(visual), images, options, hooks)


def trace(visual: VisionTransformer, images: Tensor, hooks: Hooks) -> Trace:
    """Compute `Backbone.trace` in one pass through the tower."""
    return trace_class_token(OpenClipParts(visual), images, hooks)
