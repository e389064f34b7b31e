"""ViTs whose image feature is an attention pool: SigLIP's and PE's (timm) and CoCa's (open_clip).

A learned query attends to the tokens after the last block. Like the attention pool of a ResNet (`resnet`), this is the
tower's one attention layer: the pooling query takes the place of the class token, and its attention over the patches
that of the class token's attention. The feature of a patch is the image feature that the pool gives if the query
attends to that patch only, which is also the guide of the identity structure ("dv"). The tokens have no queries in the
pool, so guides with "q" do not exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from open_clip.transformer import AttentionalPooler
from timm.layers import AttentionPoolLatent
from torch import Tensor

from ..core.errors import UserError
from .attention import class_attention_row, class_scores, merge_heads, structured
from .blocks import run_blocks
from .dense import DenseFeatures, DenseOptions
from .families import FAMILIES, Capability
from .hooks import Hooks
from .timm_vit import TimmParts, check_blocks
from .towers import differs
from .trace import Trace
from .vit import OpenClipParts


class TimmPool:
    """timm's `AttentionPoolLatent`, of SigLIP and PE."""

    def __init__(self, visual: Any) -> None:
        self.parts = TimmParts(visual)
        self.pool = visual.trunk.attn_pool
        # timm's ViT drops the class token before the pool, EVA does not.
        self.keep = bool(getattr(visual.trunk, "pool_include_prefix", True))

    def tokens(self, images: Tensor, hooks: Hooks) -> Tensor:
        """Return the tokens that the pool reads, [B, prefix + M, W]."""
        x = self.parts.trunk.norm(run_blocks(self.parts, images, hooks)[0])
        return x if self.keep else x[:, self.parts.prefix :]

    @property
    def prefix(self) -> int:
        return self.parts.prefix if self.keep else 0

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the query [B, H, 1, W/H], and keys and values [B, H, N, W/H]."""
        pool = self.pool
        q = pool.q(pool.latent.expand(len(x), -1, -1))  # [B, 1, W]
        q = q.unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)  # [B, H, 1, W/H]
        k, v = pool.kv(x).unflatten(-1, (2, pool.num_heads, -1)).permute(2, 0, 3, 1, 4)  # [B, H, N, W/H]
        return pool.q_norm(q), pool.k_norm(k), v

    def output(self, attended: Tensor) -> Tensor:
        """Return features of merged heads: [B, n, W] -> [B, n, d]."""
        x = self.pool.proj(attended)
        if self.pool.mlp is not None:
            x = x + self.pool.mlp(self.pool.norm(x))
        return self.parts.finish(x)


class CoCaPool:
    """open_clip's `AttentionalPooler`, whose first query gives the image feature of CoCa."""

    def __init__(self, visual: Any) -> None:
        self.visual, self.parts, self.pool = visual, OpenClipParts(visual), visual.attn_pool
        self.prefix = 1

    def tokens(self, images: Tensor, hooks: Hooks) -> Tensor:
        """Return the tokens that the pool reads, [B, 1 + M, W]."""
        return run_blocks(self.parts, images, hooks)[0]

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the first query [B, H, 1, d/H], and keys and values [B, H, N, d/H]."""
        pool, attention = self.pool, self.pool.attn
        query = pool.ln_q(pool.query)[:1].expand(len(x), 1, -1)  # [B, 1, d]
        x = pool.ln_k(x)  # [B, N, W]
        if attention.in_proj_weight is not None:  # tokens as wide as the joint space
            weights = attention.in_proj_weight.chunk(3)
        else:
            weights = (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)
        q, k, v = (
            F.linear(tokens, weight, bias).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
            for tokens, weight, bias in zip(
                (query, x, x), weights, attention.in_proj_bias.chunk(3), strict=True
            )
        )  # [B, H, 1 or N, d/H]
        return q, k, v

    def output(self, attended: Tensor) -> Tensor:
        """Return features of merged heads: [B, n, d] -> [B, n, d]."""
        return self.visual.ln_post(self.pool.attn.out_proj(attended)) @ self.visual.proj


def pool_of(visual: Any) -> TimmPool | CoCaPool:
    """Return the pool of a tower that `check` accepts."""
    return TimmPool(visual) if hasattr(visual, "trunk") else CoCaPool(visual)


def check(visual: Any) -> None:
    """Refuse a tower without an attention pool, or one that this module would compute wrongly.

    Raises:
        UserError: another pool, other blocks, or other features.
    """
    if hasattr(visual, "trunk"):
        pool = getattr(visual.trunk, "attn_pool", None)
        if not isinstance(pool, AttentionPoolLatent) or pool.latent_len != 1 or pool.pos_embed is not None:
            raise UserError("it does not pool by one learned query")
        check_blocks(visual, prefixes=(0, 1))
        width = visual.trunk.embed_dim
    else:
        pool = getattr(visual, "attn_pool", None)
        if not isinstance(pool, AttentionalPooler) or visual.pool_type != "tok":
            raise UserError("it does not pool by learned queries, the first of which is the image feature")
        width = visual.class_embedding.shape[0]
    like = next(pool.parameters())
    if like.is_meta:  # no values to compare
        return
    probe = torch.linspace(-2, 2, 2 * 3 * width, device=like.device).sin().view(2, 3, width).to(like.dtype)
    reader = pool_of(visual)
    with torch.no_grad():
        try:
            actual = _attend(reader, probe)
            if isinstance(reader, TimmPool):
                expected = reader.parts.finish(pool(probe))
            else:
                expected = visual.ln_post(pool(probe))[:, 0] @ visual.proj
        except (AttributeError, TypeError, RuntimeError) as error:
            raise UserError(f"its attention pool is not supported ({error})") from error
    if differs(actual, expected):
        raise UserError("its attention pool is not supported: the features differ")


def layout(visual: Any) -> tuple[int, tuple[int, int]]:
    """Return the number of attention layers, which is 1, and the rows and columns of the patch grid."""
    rows, columns = visual.trunk.patch_embed.grid_size if hasattr(visual, "trunk") else visual.grid_size
    return 1, (int(rows), int(columns))


def num_layers(visual: Any) -> int:
    """Return the number of blocks before the pool."""
    return len(pool_of(visual).parts.blocks)


def width(visual: Any) -> int:
    """Return the token width."""
    return int(visual.trunk.embed_dim if hasattr(visual, "trunk") else visual.class_embedding.shape[-1])


def capabilities(visual: Any) -> frozenset[Capability]:
    """Return what the tower offers beyond features."""
    return FAMILIES["pooled-vit"].capabilities


def encode(visual: Any, images: Tensor, hooks: Hooks) -> Tensor:
    """Return image features: [B, 3, H, W] -> [B, d]."""
    reader = pool_of(visual)
    return _attend(reader, reader.tokens(images, hooks))


def dense(visual: Any, images: Tensor, options: DenseOptions, hooks: Hooks) -> DenseFeatures:
    """Compute `Backbone.dense` from the attention pool.

    Raises:
        UserError: a guide structure with queries.
    """
    if options.guide is not None:
        _check_structure(options.guide)
    reader = pool_of(visual)
    x = reader.tokens(images, hooks)
    q, k, v = reader.heads(x)
    first = reader.prefix
    patches = x.shape[1] - first
    image = reader.output(merge_heads(F.scaled_dot_product_attention(q, k, v)))[:, 0]  # [B, d]
    features = reader.output(merge_heads(v[:, :, first:]))  # [B, M, d]
    attention = image.new_zeros((0, len(x), patches))
    if options.attention_layers:
        row = class_attention_row(class_scores(q, k), options.attention_over, first)  # [B, M]
        attention = row.expand(len(options.attention_layers), -1, -1)  # [L, B, M]
    guide = None
    if options.guide is not None:
        with torch.no_grad() if options.detach_guide else nullcontext():
            guide = _patch_features(reader, k, v, options.guide)
    return DenseFeatures(image=image, patches=features, cls_attention=attention, guide=guide)


def trace(visual: Any, images: Tensor, hooks: Hooks) -> Trace:
    """Compute `Backbone.trace` from the attention pool, which has no residual connection; its MLP always applies."""
    reader = pool_of(visual)
    q, k, v = reader.heads(reader.tokens(images, hooks))
    image = reader.output(merge_heads(F.scaled_dot_product_attention(q, k, v)))[:, 0]  # [B, d]
    patches = reader.output(merge_heads(v[:, :, reader.prefix :]))  # [B, M, d]

    def second_path(
        structure: str, layers: Sequence[int], heads: Sequence[int] | None, keep_mlp: bool
    ) -> Tensor:
        _check_structure(structure)
        return _patch_features(reader, k, v, structure, heads)

    return Trace(image, patches, ((q, k, v),), second_path, reader.prefix)


def _check_structure(structure: str) -> None:
    if "q" in structure:
        raise UserError(
            f'guide structure "{structure}": the attention pool of this tower has one query and none per patch; '
            'use structures of k and v, such as "dv" or "kkv"'
        )


def _patch_features(
    reader: TimmPool | CoCaPool, k: Tensor, v: Tensor, structure: str, heads: Sequence[int] | None = None
) -> Tensor:
    """Return the features [B, M, d] that a structure of keys and values gives."""
    first = reader.prefix
    # Queries are never read, so keys take their place.
    return reader.output(structured(k, k, v, structure, k.shape[2] - first, first=first, heads=heads))


def _attend(reader: TimmPool | CoCaPool, x: Tensor) -> Tensor:
    """Return the image feature of tokens: [B, N, W] -> [B, d]."""
    q, k, v = reader.heads(x)
    return reader.output(merge_heads(F.scaled_dot_product_attention(q, k, v)))[:, 0]
