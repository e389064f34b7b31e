"""Prompts that begin alike: the common beginning runs through a causal text tower once.

No token of a causal tower sees what comes after it, so what a beginning becomes does not depend on how the
prompt goes on. Prompt learners put their vectors before the class name: start token and vectors are the same
for all classes (with CoCoOp, for all classes of one image), and only a name of one to three tokens, the full
stop and the end token are left to each prompt. In the last block only the end token is computed. All of it
is exact, for values and gradients.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..attention import merge_heads, project
from ..hooks import Hooks, before, run_block
from .tower import TextTower


def splits(tower: TextTower) -> bool:
    """Whether every block computes x + attention(LN(x)), then x + MLP(LN(x)), found by running it both ways."""
    width = tower.token_embedding.embedding_dim
    at = tower.positional_embedding
    probe = torch.linspace(-2, 2, 2 * 4 * width, device=at.device).sin().view(2, 4, width).to(at.dtype)
    first, second = probe[:1, :2], probe[:, 2:].unsqueeze(0)
    shared = torch.cat([first.expand(2, -1, -1), probe[:, 2:]], dim=1)
    ends = torch.ones(2, dtype=torch.long, device=at.device)
    with torch.no_grad():
        for block in tower.transformer.resblocks:
            try:
                known = run_block(tower.transformer, block, shared, tower.mask[:4, :4].to(shared.dtype))
                ours = _block(block, first, second, None)[1][0]
                end = _block(block, first, second, ends)[1][0, :, 0]
            except (AttributeError, TypeError, RuntimeError):
                return False
            if (known[:, 2:] - ours).norm() > 1e-3 * known.norm():
                return False
            if (known[:, 3] - end).norm() > 1e-3 * known.norm():
                return False
    return True


def encode_with_prefix(tower: TextTower, prefix: Tensor, rest: Tensor, ends: Tensor, hooks: Hooks) -> Tensor:
    """Features of every continuation behind every beginning.

    Args:
        tower: one that `splits`.
        prefix: [G, P, W] beginnings, start token first, without positions.
        rest: [C, S, W] what follows them, without positions.
        ends: [C] position of each end token in `rest`.
        hooks: the text hook gets the beginnings alone.

    Returns:
        [G, C, d].
    """
    positions = tower.positional_embedding.to(rest.dtype)
    length = prefix.shape[1]
    a = prefix + positions[:length]
    b = (rest + positions[length : length + rest.shape[1]]).unsqueeze(0)
    blocks = tower.transformer.resblocks
    save_memory = getattr(tower.transformer, "grad_checkpointing", False) and torch.is_grad_enabled()
    for i, block in enumerate(blocks):
        a = before(hooks.text, i, a)
        read = ends if i + 1 == len(blocks) else None
        if save_memory:
            a, b = checkpoint(_block, block, a, b, read, use_reentrant=False)
        else:
            a, b = _block(block, a, b, read)
    x = tower.ln_final(b.squeeze(2))
    if tower.projection is None:
        return x
    return tower.projection(x) if callable(tower.projection) else x @ tower.projection


def _block(block: Any, a: Tensor, b: Tensor, ends: Tensor | None) -> tuple[Tensor, Tensor]:
    """One block on beginnings a [G, P, W] and continuations b [1 or G, C, S, W].

    With `ends`, only those rows of b come back, [G, C, 1, W], and a as it was, since nothing reads it.
    """
    attention = block.attn
    q, keys, values = project(attention, block.ln_1(a))
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    width = b.shape[-1]
    groups, classes, tokens = len(a), b.shape[1], b.shape[2]

    normed = block.ln_1(b)
    own = _heads(F.linear(normed, weight[width:], None if bias is None else bias[width:]), attention, groups)
    own_keys, own_values = own.split(attention.num_heads, dim=3)
    seen = torch.ones(tokens, tokens, dtype=torch.bool, device=b.device).tril()
    if ends is not None:
        rows = torch.arange(classes, device=b.device)
        b, normed, seen = b[:, rows, ends, None], normed[:, rows, ends, None], seen[ends, None]
    queries = F.linear(normed, weight[:width], None if bias is None else bias[:width])
    # Scores against the beginning are one product per image and head, whatever the number of classes.
    queries = _heads(queries, attention, groups).permute(0, 3, 1, 2, 4) * q.shape[-1] ** -0.5
    to_prefix = (queries.flatten(2, 3) @ keys.transpose(-1, -2)).unflatten(2, (classes, -1))
    to_own = torch.einsum("gjcqd,gcsjd->gjcqs", queries, own_keys).masked_fill(~seen, float("-inf"))
    share = torch.cat([to_prefix, to_own], dim=-1).softmax(dim=-1).to(values.dtype)
    length = keys.shape[2]
    taken = (share[..., :length].flatten(2, 3) @ values).unflatten(2, (classes, -1))
    taken = taken + torch.einsum("gjcqs,gcsjd->gjcqd", share[..., length:], own_values)

    b = b + block.ls_1(attention.out_proj(taken.permute(0, 2, 3, 1, 4).flatten(3)))
    b = b + block.ls_2(block.mlp(block.ln_2(b)))
    if ends is None:
        merged = merge_heads(F.scaled_dot_product_attention(q, keys, values, is_causal=True))
        a = a + block.ls_1(attention.out_proj(merged))
        a = a + block.ls_2(block.mlp(block.ln_2(a)))
    return a, b


def _heads(projected: Tensor, attention: Any, groups: int) -> Tensor:
    """[1 or G, C, S, k W] -> [G, C, S, k J, W/J]."""
    head = attention.in_proj_weight.shape[1] // attention.num_heads
    return projected.unflatten(-1, (-1, head)).expand(groups, -1, -1, -1, -1)
