"""Prompts with a common prefix: the prefix runs once through a causal text tower.

No token of a causal tower depends on later ones, so the states of a prefix do not depend on its continuation. Prompt
learners put their vectors before the class name: start token and vectors are the same for all classes (in CoCoOp, for
all classes of one image), and each prompt adds only a name of one to three tokens, the full stop and the end token. In
the last block only the end token is computed. Values and gradients are exact.

In shapes, G is prefixes, C continuations, P and S their tokens, H heads and W the token width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..attention import merge_heads, project
from ..hooks import Hooks, before, run_block
from ..towers import Attention, Block, differs
from .tower import TextTower


def supports_prefix(tower: TextTower) -> bool:
    """Return whether every block is x + attention(LN(x)), then x + MLP(LN(x)).

    Each block is run on two short sequences with a common prefix, by open_clip and by this module.
    """
    width = tower.token_embedding.embedding_dim
    like = tower.positional_embedding
    probe = torch.linspace(-2, 2, 2 * 4 * width, device=like.device).sin().view(2, 4, width).to(like.dtype)
    prefix, rest = probe[:1, :2], probe[:, 2:].unsqueeze(0)  # [1, 2, W], [1, 2, 2, W]
    whole = torch.cat([prefix.expand(2, -1, -1), probe[:, 2:]], dim=1)  # [2, 4, W]
    ends = torch.ones(2, dtype=torch.long, device=like.device)
    with torch.no_grad():
        for block in tower.transformer.resblocks:
            try:
                expected = run_block(tower.transformer, block, whole, tower.mask[:4, :4].to(whole.dtype))
                actual = _run_block(block, prefix, rest, None)[1][0]  # [2, 2, W]
                actual_end = _run_block(block, prefix, rest, ends)[1][0, :, 0]  # [2, W]
            except (AttributeError, TypeError, RuntimeError):
                return False
            if differs(actual, expected[:, 2:]) or differs(actual_end, expected[:, 3]):
                return False
    return True


def encode_with_prefix(tower: TextTower, prefix: Tensor, rest: Tensor, ends: Tensor, hooks: Hooks) -> Tensor:
    """Return the features of every continuation after every prefix.

    Args:
        tower: one that `supports_prefix`.
        prefix: token embeddings of the prefixes, start token first, without positions, [G, P, W].
        rest: token embeddings of the continuations, without positions, [C, S, W].
        ends: position of each end token in `rest`, [C].
        hooks: the text hook receives the prefixes only. Taps are not called.

    Returns:
        [G, C, d].
    """
    positions = tower.positional_embedding.to(rest.dtype)  # [L, W]
    length = prefix.shape[1]
    a = prefix + positions[:length]  # [G, P, W]
    b = (rest + positions[length : length + rest.shape[1]]).unsqueeze(0)  # [1, C, S, W], later [G, C, S, W]
    blocks = tower.transformer.resblocks
    save_memory = getattr(tower.transformer, "grad_checkpointing", False) and torch.is_grad_enabled()
    for i, block in enumerate(blocks):
        a = before(hooks.text, i, a)
        read = ends if i + 1 == len(blocks) else None
        if save_memory:
            a, b = checkpoint(_run_block, block, a, b, read, use_reentrant=False)
        else:
            a, b = _run_block(block, a, b, read)
    return tower.project(tower.ln_final(b.squeeze(2)))  # [G, C, W] -> [G, C, d]


def encode_whole(tower: TextTower, prefix: Tensor, rest: Tensor, ends: Tensor, hooks: Hooks) -> Tensor:
    """Return the same as `encode_with_prefix`, from G * C whole prompts; for towers that do not support it."""
    groups, classes = len(prefix), len(rest)
    prompts = torch.cat(
        [
            prefix.unsqueeze(1).expand(-1, classes, -1, -1),  # [G, C, P, W]
            rest.unsqueeze(0).expand(groups, -1, -1, -1),  # [G, C, S, W]
        ],
        dim=2,
    )  # [G, C, P + S, W]
    all_ends = (ends + prefix.shape[1]).repeat(groups)  # [GC]
    features = tower.encode(prompts.flatten(0, 1), all_ends, hooks)  # [GC, d]
    return features.unflatten(0, (groups, -1))  # [G, C, d]


def _run_block(block: Block, a: Tensor, b: Tensor, ends: Tensor | None) -> tuple[Tensor, Tensor]:
    """Run one block on prefixes a [G, P, W] and continuations b [1 or G, C, S, W].

    With `ends` [C], return only those tokens of b, [G, C, 1, W], and a unchanged, since nothing reads it.
    """
    attention = block.attn
    q, prefix_keys, prefix_values = project(attention, block.ln_1(a))  # [G, H, P, W/H] each
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    width = b.shape[-1]
    groups, classes, tokens = len(a), b.shape[1], b.shape[2]

    normed = block.ln_1(b)
    packed = F.linear(normed, weight[width:], None if bias is None else bias[width:])  # [1 or G, C, S, 2W]
    packed = _heads(packed, attention, groups)  # [G, C, S, 2H, W/H]
    keys, values = packed.split(attention.num_heads, dim=3)  # [G, C, S, H, W/H] each
    visible = torch.ones(tokens, tokens, dtype=torch.bool, device=b.device).tril()  # [S, S], causal
    if ends is not None:
        rows = torch.arange(classes, device=b.device)
        # Q = 1 query per continuation instead of Q = S.
        b, normed, visible = b[:, rows, ends, None], normed[:, rows, ends, None], visible[ends, None]
    queries = F.linear(normed, weight[:width], None if bias is None else bias[:width])  # [1 or G, C, Q, W]
    queries = _heads(queries, attention, groups).permute(0, 3, 1, 2, 4)  # [G, H, C, Q, W/H]
    queries = queries * q.shape[-1] ** -0.5
    # Scores with the prefix are one product per prefix and head, whatever the number of classes.
    to_prefix = queries.flatten(2, 3) @ prefix_keys.transpose(-1, -2)  # [G, H, CQ, P]
    to_prefix = to_prefix.unflatten(2, (classes, -1))  # [G, H, C, Q, P]
    to_rest = torch.einsum("ghcqd,gcshd->ghcqs", queries, keys).masked_fill(~visible, float("-inf"))
    weights = torch.cat([to_prefix, to_rest], dim=-1).softmax(dim=-1)  # [G, H, C, Q, P + S]
    weights = weights.to(prefix_values.dtype)
    length = prefix_keys.shape[2]
    attended = weights[..., :length].flatten(2, 3) @ prefix_values  # [G, H, CQ, W/H]
    attended = attended.unflatten(2, (classes, -1))  # [G, H, C, Q, W/H]
    attended = attended + torch.einsum("ghcqs,gcshd->ghcqd", weights[..., length:], values)
    attended = attended.permute(0, 2, 3, 1, 4).flatten(3)  # [G, C, Q, W]

    b = b + block.ls_1(attention.out_proj(attended))
    b = b + block.ls_2(block.mlp(block.ln_2(b)))
    if ends is None:
        attended = F.scaled_dot_product_attention(q, prefix_keys, prefix_values, is_causal=True)
        a = a + block.ls_1(attention.out_proj(merge_heads(attended)))  # [G, H, P, W/H] -> [G, P, W]
        a = a + block.ls_2(block.mlp(block.ln_2(a)))
    return a, b


def _heads(projected: Tensor, attention: Attention, groups: int) -> Tensor:
    """Split heads and repeat for each prefix: [1 or G, C, S, kW] -> [G, C, S, kH, W/H]."""
    head = attention.in_proj_weight.shape[1] // attention.num_heads
    return projected.unflatten(-1, (-1, head)).expand(groups, -1, -1, -1, -1)
