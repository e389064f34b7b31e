"""Attention, computed from its parts: heads, the class token's row, and attention of other structures.

No function here forms the attention matrix of all tokens with all tokens. Outputs come from fused attention, and the
class token's row is a single query against all keys. In shapes, H is heads, N tokens, M patches and W the width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import UserError
from .towers import Attention

AttentionOver = Literal["patches", "tokens"]

# Attention structures X-Y-Z by name: softmax(X Y^T / sqrt(W/H)) Z per head, or Z itself (D-Z, identity attention).
# AlignCLIP, appendix B.4, figures 7 and 8: patches match texts if X and Y are equal, or the attention is the identity,
# and Z is V. `check_structure` also accepts every other combination.
STRUCTURES: dict[str, str] = {
    "qkv": "ordinary attention (figure 7)",
    "vvv": "values attend to values, as in CLIP Surgery (figure 8)",
    "qqv": "queries attend to queries (figure 8)",
    "kkv": "keys attend to keys (figure 8)",
    "dv": "identity attention, AlignCLIP's choice (figure 8)",
    "qqq": "equal pair, but values are queries (figure 7)",
    "kkk": "equal pair, but values are keys (figure 7)",
    "qkk": "unequal pair, and values are keys (figure 7)",
    "qkq": "unequal pair, and values are queries (figure 7)",
    "kqv": "ordinary attention, transposed",
    "vvq": "equal pair, but values are queries",
    "vvk": "equal pair, but values are keys",
    "dq": "identity attention, but values are queries",
    "dk": "identity attention, but values are keys",
}


def project(attention: Attention, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values of a packed in-projection, including biases.

    Args:
        attention: module that holds the projection.
        tokens: [B, N, W], normalised by the block's first LayerNorm.

    Returns:
        q, k, v, each [B, H, N, W/H].
    """
    packed = F.linear(tokens, attention.in_proj_weight, attention.in_proj_bias)  # [B, N, 3W]
    heads = packed.unflatten(-1, (3, attention.num_heads, -1))  # [B, N, 3, H, W/H]
    heads = heads.permute(2, 0, 3, 1, 4)  # [3, B, H, N, W/H]
    return heads[0], heads[1], heads[2]


def merge_heads(heads: Tensor) -> Tensor:
    """Concatenate heads: [B, H, N, W/H] -> [B, N, W].

    Example:
        >>> merge_heads(torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]]))
        tensor([[[1., 2., 3., 4.]]])
    """
    return heads.transpose(1, 2).flatten(2)  # [B, N, H, W/H] -> [B, N, W]


def class_scores(q: Tensor, k: Tensor) -> Tensor:
    """Return the class token's attention scores, q_cls . k / sqrt(W/H).

    They are computed in at least float32, outside autocast, because the alignment loss takes logarithms of their
    softmax.

    Args:
        q, k: [B, H, N, W/H], the class token at position 0.

    Returns:
        [B, H, N], differentiable in both q and k.
    """
    with torch.autocast(q.device.type, enabled=False):
        query = q[:, :, :1].float() if q.dtype in (torch.float16, torch.bfloat16) else q[:, :, :1]
        scores = query @ k.to(query.dtype).transpose(-1, -2)  # [B, H, 1, N]
        return scores.squeeze(2) * q.shape[-1] ** -0.5  # [B, H, N]


def class_attention_row(scores: Tensor, over: AttentionOver, first: int = 1) -> Tensor:
    """Return the class token's attention over the patches, averaged over heads.

    Args:
        scores: [B, H, 1 + M], position 0 the class token itself.
        over: "patches" is AlignCLIP's equation (3): per head, a softmax over the M patches without the class key,
            then the mean over heads. "tokens" is its released code: softmax over all tokens, mean over heads, the
            class token's entry dropped, and the rest divided by its sum; heads that attend to the class token itself
            have less weight.
        first: position of the first patch; 0 without a class token, where both choices are equal.

    Returns:
        [B, M], rows summing to 1.

    Raises:
        UserError: unknown `over`.

    Example:
        >>> scores = torch.tensor([[[0.0, 1.0, 1.0], [9.0, 1.0, 3.0]]])  # one image, two heads, two patches
        >>> class_attention_row(scores, "patches"), class_attention_row(scores, "tokens")
        (tensor([[0.3096, 0.6904]]), tensor([[0.4987, 0.5013]]))
    """
    if over == "patches":
        return scores[..., first:].softmax(dim=-1).mean(dim=1)  # [B, H, M] -> [B, M]
    if over == "tokens":
        row = scores.softmax(dim=-1).mean(dim=1)[:, first:]  # [B, H, first + M] -> [B, M]
        return row / row.sum(dim=-1, keepdim=True).clamp_min(1e-12)
    raise UserError(f'attention over "{over}": choose "patches" or "tokens"')


def check_structure(structure: str) -> str:
    """Return the structure in lower case without hyphens.

    Raises:
        UserError: it is neither three of q, k, v nor "d" and one of them.

    Example:
        >>> check_structure("D-V")
        'dv'
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


def structured(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    structure: str,
    patches: int,
    *,
    first: int = 1,
    heads: Sequence[int] | None = None,
) -> Tensor:
    """Return the patches' X-Y-Z attention, softmax(X Y^T / sqrt(W/H)) Z per head; D-Z is Z itself.

    Patch tokens match text if X and Y are equal, or the attention is the identity, and Z is V.

    Args:
        q, k, v: [B, H, N, W/H]: the class token, then the patches, then any prompts. Only patches are queries; all
            tokens are keys and values.
        structure: as returned by `check_structure`.
        patches: M.
        first: position of the first patch; 0 without a class token.
        heads: heads to keep, from 0; the output of the others is zero. None for all.

    Returns:
        [B, M, W], before the output projection.

    Source: AlignCLIP, equation (5) and appendix B.4.
    """
    by_name = {"q": q, "k": k, "v": v}
    output = by_name[structure[-1]]
    if structure[0] == "d":
        output = output[:, :, first : first + patches]  # [B, H, M, W/H]
    else:
        queries, keys = by_name[structure[0]][:, :, first : first + patches], by_name[structure[1]]
        output = F.scaled_dot_product_attention(queries, keys, output)  # [B, H, M, W/H]
    if heads is not None:
        kept = torch.zeros(q.shape[1], 1, 1, dtype=output.dtype, device=output.device)  # [H, 1, 1]
        kept[list(heads)] = 1
        output = output * kept
    return merge_heads(output)  # [B, H, M, W/H] -> [B, M, W]


def rollout(attention: Sequence[Tensor]) -> Tensor:
    """Return how much each patch contributes to the class token through several layers (attention rollout).

    Each layer passes on half of a token and half of what it attends to: the product of (A + I) / 2 over the layers.

    Args:
        attention: per layer from first to last, [B, N, N], rows summing to 1, the class token at position 0.

    Returns:
        [B, M], the class token's row over the patches, divided by its sum.

    Source: Abnar and Zuidema, Quantifying Attention Flow in Transformers, ACL 2020.

    Example:
        >>> layer = torch.tensor([[[0.2, 0.6, 0.2], [0.0, 1.0, 0.0], [0.0, 0.5, 0.5]]])
        >>> rollout([layer])
        tensor([[0.7500, 0.2500]])
    """
    row = torch.zeros_like(attention[0][:, :1])  # [B, 1, N], the class token as a sum of tokens
    row[..., 0] = 1
    for layer in reversed(attention):
        row = (row + row @ layer) / 2  # [B, 1, N] @ [B, N, N]; only the class token's row is needed
    patches = row[:, 0, 1:]  # [B, M]
    return patches / patches.sum(dim=-1, keepdim=True).clamp_min(1e-12)
