"""Learned vectors of prompt learners: initial values, and hooks that insert them into the blocks of both towers.

In shapes, m and n are numbers of vectors, and W is the token width of their tower.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...core.errors import UserError

if TYPE_CHECKING:
    from ..model import Backbone

STD = 0.02  # standard deviation of random vectors in every published prompt learner


def embed_phrase(backbone: Backbone, phrase: str) -> Tensor:
    """Return the token embeddings [m, W] of a phrase, without start and end token.

    Raises:
        UserError: the phrase exceeds the context length.
    """
    tokens = backbone.tokenize([phrase])
    if tokens.num_truncated:
        raise UserError(
            f'--context-init "{phrase}": {tokens.longest} tokens, but the context length of this backbone is '
            f"{backbone.context_length}"
        )
    with torch.no_grad():
        embeddings, ends = backbone.embed_tokens(tokens.ids)  # [1, m + 2, W], [1]
    return embeddings[0, 1 : int(ends[0])].clone()


def initial_context(backbone: Backbone, phrase: str, count: int | None, default: int) -> Tensor:
    """Return initial vectors [m, W] as in CoOp: the words of a phrase, or normal(0, 0.02).

    Args:
        backbone: embeds the phrase.
        phrase: "" for random vectors.
        count: m; None for the number of tokens of the phrase, or `default` random vectors.
        default: see `count`.

    Raises:
        UserError: `count` is not the number of tokens of the phrase, or less than 1.
    """
    check_count(count)
    if not phrase:
        return random_vectors(backbone, count or default)
    words = embed_phrase(backbone, phrase)
    if count is not None and count != len(words):
        raise UserError(
            f'--context-tokens {count}: --context-init "{phrase}" has {len(words)} tokens; '
            'drop one of the two, or give --context-init "" for random vectors'
        )
    return words


def split_context(backbone: Backbone, phrase: str, count: int) -> tuple[Tensor, Tensor | None]:
    """Return initial vectors [m, W] and the fixed words after them [r, W], as in MaPLe and PromptSRC.

    The first m tokens of the phrase are learned, and the others are fixed. A phrase of fewer than m tokens is ignored,
    and the vectors are normal(0, 0.02).

    Raises:
        UserError: `count` is less than 1, or the phrase exceeds the context length.
    """
    check_count(count)
    words = embed_phrase(backbone, phrase) if phrase else None
    if words is None or len(words) < count:
        return random_vectors(backbone, count), None
    return words[:count].clone(), words[count:] if len(words) > count else None


def check_count(count: int | None, option: str = "--context-tokens") -> None:
    """Raise UserError for fewer than one vector; None is valid."""
    if count is not None and count < 1:
        raise UserError(f"{option} must be at least 1, not {count}")


def random_vectors(backbone: Backbone, count: int) -> Tensor:
    """Return vectors [count, W] from normal(0, 0.02), with W the width of the text tower."""
    return STD * torch.randn(count, backbone.text_shape[1], device=backbone.device)


def scaled_depth(option: str, depth: int | None, blocks: int) -> int:
    """Return the number of blocks with prompts; by default the same share of the tower as the published 9 of 12.

    Raises:
        UserError: `depth` is not between 1 and `blocks`.

    Example:
        >>> scaled_depth("--depth", None, blocks=4)
        3
    """
    if depth is None:
        return max(1, round(blocks * 9 / 12))
    if not 1 <= depth <= blocks:
        raise UserError(f"{option} {depth}: this backbone allows 1 to {blocks}")
    return depth


def overwrite(tokens: Tensor, vectors: Tensor, at: int) -> Tensor:
    """Return tokens [B, N, W] with positions at, at + 1, ... replaced by vectors [m, W].

    A negative `at` counts from the end.

    Example:
        >>> overwrite(torch.zeros(1, 4, 1), torch.ones(2, 1), at=-2).flatten()
        tensor([0., 0., 1., 1.])
    """
    at = at % tokens.shape[1]
    new = vectors.to(tokens.dtype).expand(len(tokens), -1, -1)  # [B, m, W]
    return torch.cat([tokens[:, :at], new, tokens[:, at + len(vectors) :]], dim=1)  # [B, N, W]


def append(tokens: Tensor, vectors: Tensor) -> Tensor:
    """Return tokens [B, N, W] followed by vectors [m, W]: [B, N + m, W]."""
    return torch.cat([tokens, vectors.to(tokens.dtype).expand(len(tokens), -1, -1)], dim=1)


def deep_hooks(text: Tensor | Sequence[Tensor], vision: Tensor | Sequence[Tensor]) -> dict[str, Any]:
    """Return arguments of `Backbone.hooks` that insert vectors into the input of the first blocks (ViT).

    Vision vectors are appended to the patches before the tower's first LayerNorm and overwritten before each later
    block, so the outputs of earlier blocks at these positions are discarded. The text vectors of block 0 are part of
    the prompt; from block 1 on, the positions after the start token are overwritten.

    Args:
        text: vectors per block, [m, W] each; the first is unused.
        vision: vectors per block, [n, W] each.
    """

    def text_hook(block: int, tokens: Tensor) -> Tensor:
        return overwrite(tokens, text[block], 1) if 1 <= block < len(text) else tokens

    def vision_hook(block: int, tokens: Tensor) -> Tensor:
        return overwrite(tokens, vision[block], -len(vision[block])) if 1 <= block < len(vision) else tokens

    def vision_input(tokens: Tensor) -> Tensor:
        return append(tokens, vision[0])

    return {"text": text_hook, "vision": vision_hook, "vision_input": vision_input}
