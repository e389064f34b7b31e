"""Hooks before and after the blocks of a tower."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .towers import Block, Transformer

BlockHook = Callable[[int, Tensor], Tensor]
Tap = Callable[[Literal["vision", "text"], int, Tensor], None]


@dataclass(frozen=True)
class Hooks:
    """Functions that are called while a tower runs; all are optional.

    Tokens are [B, N, W] whatever the tower's own layout. In a ViT, position 0 is the class token, followed by the
    patches. Hooks may overwrite positions and append some after the patches, as visual prompts do.

    Attributes:
        vision_input: tokens -> tokens, after the positional embedding and before the first LayerNorm (ViT only).
        vision: (block, tokens) -> tokens, before each vision block. The blocks of a ResNet are its four stages, and
            its tokens are feature maps [B, channels, height, width].
        text: (block, tokens) -> tokens, before each text block.
        tap: (tower, block, output), after each block. Block -1 of the vision tower is the patch embedding [B, M, W]
            of a ViT, before class token and positions, or the stem of a ResNet.
    """

    vision_input: Callable[[Tensor], Tensor] | None = None
    vision: BlockHook | None = None
    text: BlockHook | None = None
    tap: Tap | None = None


def before(hook: BlockHook | None, block: int, tokens: Tensor) -> Tensor:
    """Return the tokens as changed by the hook, if there is one."""
    return tokens if hook is None else hook(block, tokens)


def run_block(transformer: Transformer, block: Block, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """Run an open_clip block on [B, N, W], in its transformer's layout and with its gradient checkpointing."""
    batch_first = getattr(transformer, "batch_first", True)  # older versions of open_clip lack it

    def run(x: Tensor) -> Tensor:
        x = x if batch_first else x.transpose(0, 1)  # [N, B, W]
        x = block(x, attn_mask=mask)
        return x if batch_first else x.transpose(0, 1)  # [B, N, W]

    if getattr(transformer, "grad_checkpointing", False) and torch.is_grad_enabled():
        return checkpoint(run, tokens, use_reentrant=False)
    return run(tokens)
