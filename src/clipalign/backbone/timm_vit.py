"""timm's VisionTransformer and EVA inside open_clip's `TimmModel`, as parts for `blocks`.

Rotary positions turn queries and keys of patches, so maps and guides see them as attention does. Towers with rotary
positions cannot take prompts, which have no place on the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import apply_rot_embed_cat
from timm.models.eva import Eva, EvaBlockPostNorm
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..core.errors import UserError
from .attention import merge_heads
from .blocks import dense_class_token, encode_class_token, trace_class_token
from .dense import DenseFeatures, DenseOptions
from .families import FAMILIES, Capability
from .hooks import Hooks
from .towers import differs
from .trace import Trace


class TimmParts:
    """The steps of a timm ViT; see `blocks.Parts`. `visual` is open_clip's `TimmModel`."""

    def __init__(self, visual: Any) -> None:
        self.visual, self.trunk = visual, visual.trunk
        self.rope: Tensor | None = None  # rotary positions of the patches; set by `embed`

    @property
    def blocks(self) -> Sequence[Any]:
        return self.trunk.blocks

    @property
    def save_memory(self) -> bool:
        return bool(self.trunk.grad_checkpointing)

    @property
    def prefix(self) -> int:
        """Number of tokens before the patches."""
        return int(self.trunk.num_prefix_tokens)

    def embed(self, images: Tensor, hooks: Hooks) -> tuple[Tensor, int]:
        trunk = self.trunk
        x = trunk.patch_embed(images)  # [B, M, W]
        if hooks.tap is not None:
            hooks.tap("vision", -1, x)
        x = trunk._pos_embed(x)  # [B, prefix + M, W], of EVA with the rotary positions
        if isinstance(x, tuple):
            x, self.rope = x
        else:
            x = trunk.patch_drop(x)
        patches = x.shape[1] - self.prefix
        if hooks.vision_input is not None:
            x = hooks.vision_input(x)
        return trunk.norm_pre(x), patches

    def run(self, block: Any, x: Tensor) -> Tensor:
        if self.save_memory and torch.is_grad_enabled():
            return checkpoint(self._run, block, x, use_reentrant=False)
        return self._run(block, x)

    def _run(self, block: Any, x: Tensor) -> Tensor:
        return block(x, rope=self.rope) if isinstance(self.trunk, Eva) else block(x)

    def run_with_heads(self, block: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        q, k, v = self._project(block.attn, x if isinstance(block, EvaBlockPostNorm) else block.norm1(x))
        attended = merge_heads(F.scaled_dot_product_attention(q, k, v))  # [B, H, N, W/H] -> [B, N, W]
        x = x + self.attention_output(block, attended)
        x = x + self.mlp_output(block, x)
        return x, q, k, v

    def attention_output(self, block: Any, attended: Tensor) -> Tensor:
        out = block.attn.proj(block.attn.norm(attended))
        if isinstance(block, EvaBlockPostNorm):
            return block.norm1(out)
        return _scale(block, out, 1)

    def mlp_output(self, block: Any, x: Tensor) -> Tensor:
        if isinstance(block, EvaBlockPostNorm):
            return block.norm2(block.mlp(x))
        return _scale(block, block.mlp(block.norm2(x)), 2)

    def project(self, x: Tensor) -> Tensor:
        return self.finish(self.trunk.norm(x))

    def finish(self, x: Tensor) -> Tensor:
        """Apply what follows the pooling: [..., W] -> [..., d]."""
        trunk = self.trunk
        return self.visual.head(trunk.head(trunk.head_drop(trunk.fc_norm(x))))

    def _project(self, attention: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values [B, H, N, W/H], normalised and with rotary positions."""
        if attention.qkv is not None:
            bias = attention.qkv.bias
            if getattr(attention, "q_bias", None) is not None:  # EVA has no bias of keys
                bias = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
            packed = F.linear(x, attention.qkv.weight, bias)  # [B, N, 3W]
            heads = packed.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
            q, k, v = heads.unbind(0)  # [B, H, N, W/H] each
        else:
            q, k, v = (
                projection(x).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)  # [B, H, N, W/H]
                for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
            )
        q, k = attention.q_norm(q), attention.k_norm(k)
        if self.rope is not None:
            half = bool(getattr(attention, "rotate_half", False))
            q, k = (
                torch.cat(
                    [
                        h[:, :, : self.prefix],
                        apply_rot_embed_cat(h[:, :, self.prefix :], self.rope, half=half),
                    ],
                    dim=2,
                ).type_as(v)  # [B, H, N, W/H]
                for h in (q, k)
            )
        return q, k, v


def _scale(block: Any, x: Tensor, number: int) -> Tensor:
    """Apply the layer scale of a block: a module of timm's ViT, a vector or None of EVA."""
    if (module := getattr(block, f"ls{number}", None)) is not None:
        return module(x)
    gamma = getattr(block, f"gamma_{number}", None)
    return x if gamma is None else gamma * x


def check_blocks(visual: Any, prefixes: tuple[int, ...]) -> None:
    """Refuse a tower that `TimmParts` would compute wrongly; each block is run by timm and by `TimmParts`.

    Raises:
        UserError: not timm's VisionTransformer or EVA, tokens before the patches other than `prefixes` many, or
            other outputs of a block.
    """
    trunk = visual.trunk
    if not isinstance(trunk, VisionTransformer | Eva) or getattr(trunk, "rope_mixed", False):
        raise UserError(f"timm's {type(trunk).__name__} is not computed block by block")
    if trunk.num_prefix_tokens not in prefixes or trunk.dynamic_img_size:
        raise UserError(f"{trunk.num_prefix_tokens} tokens before the patches")
    parts, weight = TimmParts(visual), next(trunk.blocks.parameters())
    if weight.is_meta:  # no values to compare
        return
    count = trunk.num_prefix_tokens + 2
    probe = torch.linspace(-2, 2, 2 * count * trunk.embed_dim, device=weight.device).sin()
    probe = probe.view(2, count, trunk.embed_dim).to(weight.dtype)  # [2, prefix + 2 patches, W]
    with torch.no_grad():
        try:
            rope = getattr(trunk, "rope", None)
            if rope is not None:
                full = (
                    rope.get_embed()
                    if hasattr(rope, "feat_shape")
                    else rope.get_embed(shape=trunk.patch_embed.grid_size)
                )
                parts.rope = full[..., :2, :]
            wrong = next(
                (
                    i
                    for i, block in enumerate(trunk.blocks)
                    if differs(parts.run_with_heads(block, probe)[0], parts.run(block, probe))
                ),
                None,
            )
        except (AttributeError, TypeError, RuntimeError) as error:
            raise UserError(f"its blocks are not supported ({error})") from error
    if wrong is not None:
        raise UserError(f"vision block {wrong} computes something else than attention and MLP")


def check(visual: Any) -> None:
    """Refuse a tower that does not read a class token, or whose blocks differ; see `check_blocks`."""
    if getattr(visual.trunk, "global_pool", None) != "token":
        raise UserError("it does not pool by a class token")
    check_blocks(visual, prefixes=(1,))


def layout(visual: Any) -> tuple[int, tuple[int, int]]:
    """Return the number of blocks, and the rows and columns of the patch grid."""
    rows, columns = visual.trunk.patch_embed.grid_size
    return len(visual.trunk.blocks), (int(rows), int(columns))


def num_layers(visual: Any) -> int:
    """Return the number of blocks."""
    return len(visual.trunk.blocks)


def width(visual: Any) -> int:
    """Return the token width."""
    return int(visual.trunk.embed_dim)


def capabilities(visual: Any) -> frozenset[Capability]:
    """Return what the tower offers beyond features; rotary positions leave no place for prompts."""
    offered = FAMILIES["timm-vit"].capabilities
    return offered - {"image prompts"} if getattr(visual.trunk, "rope", None) is not None else offered


def encode(visual: Any, images: Tensor, hooks: Hooks) -> Tensor:
    """Return image features: [B, 3, H, W] -> [B, d]."""
    return encode_class_token(TimmParts(visual), images, hooks)


def dense(visual: Any, images: Tensor, options: DenseOptions, hooks: Hooks) -> DenseFeatures:
    """Compute `Backbone.dense` in one pass through the tower."""
    return dense_class_token(TimmParts(visual), images, options, hooks)


def trace(visual: Any, images: Tensor, hooks: Hooks) -> Trace:
    """Compute `Backbone.trace` in one pass through the tower."""
    return trace_class_token(TimmParts(visual), images, hooks)
