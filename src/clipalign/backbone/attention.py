"""Attention taken apart: projections per head, the class token's row, and the X-Y-Z structures.

Nothing here forms an attention matrix of all tokens against all tokens: outputs come from fused attention,
and the class token's row is one query against all keys.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import UserError

AttentionOver = Literal["patches", "tokens"]


def project(attention: Any, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of a packed in-projection, biases included.

    Args:
        attention: `torch.nn.MultiheadAttention` or open_clip's own `Attention`: both hold `in_proj_weight`
            [3W, W], `in_proj_bias` [3W] and `num_heads` under these names.
        tokens: [B, N, W], normalised by the block's first LayerNorm.

    Returns:
        q, k, v, each [B, J, N, W/J].
    """
    packed = F.linear(tokens, attention.in_proj_weight, attention.in_proj_bias)
    heads = packed.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
    return heads[0], heads[1], heads[2]


def merge_heads(heads: Tensor) -> Tensor:
    """[B, J, N, W/J] -> [B, N, W], the inverse of what `project` does to one projection."""
    return heads.transpose(1, 2).flatten(2)


def class_scores(q: Tensor, k: Tensor) -> Tensor:
    """Scores of the class token (row 0) for every token: q_cls . k / sqrt(head size).

    In float32 whatever the autocast state, since the alignment loss takes logarithms of their softmax.

    Args:
        q, k: [B, J, N, head size].

    Returns:
        [B, J, N], gradient to both q and k.
    """
    with torch.autocast(q.device.type, enabled=False):
        query = q[:, :, :1].float() if q.dtype in (torch.float16, torch.bfloat16) else q[:, :, :1]
        scores = query @ k.to(query.dtype).transpose(-1, -2)
        return scores.squeeze(2) * q.shape[-1] ** -0.5


def class_attention_row(scores: Tensor, over: AttentionOver) -> Tensor:
    """How the class token spreads its attention over the patches: mean over heads, rows sum to 1.

    Args:
        scores: [B, J, 1 + M], column 0 the class token itself.
        over: "patches" is AlignCLIP's equation (3): softmax over the M patches per head (the class key is
            left out inside the softmax), then the mean over heads. "tokens" is its released code: softmax
            over all tokens, mean over heads, class column dropped, L1 normalisation; there a head that
            attends to the class token itself weighs less.

    Returns:
        [B, M].
    """
    if over == "patches":
        return scores[..., 1:].softmax(dim=-1).mean(dim=1)
    if over == "tokens":
        row = scores.softmax(dim=-1).mean(dim=1)[:, 1:]
        return row / row.sum(dim=-1, keepdim=True).clamp_min(1e-12)
    raise UserError(f'attention over "{over}": choose "patches" or "tokens"')


def check_structure(structure: str) -> str:
    """The structure in lower case without hyphens ("D-V" -> "dv").

    Raises:
        UserError: it is neither three of q, k, v nor "d" and one of them.
    """
    name = structure.lower().replace("-", "")
    if len(name) == 3 and set(name) <= set("qkv"):
        return name
    if len(name) == 2 and name[0] == "d" and name[1] in "qkv":
        return name
    raise UserError(
        f'guide structure "{structure}": write three of q, k, v (softmax(XY)Z, such as "vvv" or "qqv"), '
        'or "d" and one of them (identity attention, "dv")'
    )


def structured(q: Tensor, k: Tensor, v: Tensor, structure: str, patches: int) -> Tensor:
    """X-Y-Z attention of the patches: softmax(X Y^T / sqrt(head size)) Z per head; D-Z is Z itself.

    AlignCLIP, equation (5) and appendix B.4: patch tokens match text where X and Y are equal (or the
    attention is the identity) and Z is V.

    Args:
        q, k, v: [B, J, N, head size], row 0 the class token, then the patches, then any prompts. Patches
            alone are queries; every token is a key and a value.
        structure: as `check_structure` returns it.
        patches: M.

    Returns:
        [B, M, W], before the output projection.
    """
    by_name = {"q": q, "k": k, "v": v}
    values = by_name[structure[-1]]
    if structure[0] == "d":
        return merge_heads(values[:, :, 1 : 1 + patches])
    queries, keys = by_name[structure[0]][:, :, 1 : 1 + patches], by_name[structure[1]]
    return merge_heads(F.scaled_dot_product_attention(queries, keys, values))
