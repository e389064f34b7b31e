"""What a method may put between the blocks of a tower, and what it may read there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

BlockHook = Callable[[int, Tensor], Tensor]
Tap = Callable[[Literal["vision", "text"], int, Tensor], None]


@dataclass(frozen=True)
class Hooks:
    """Functions called while a tower runs; all optional.

    Tokens are [B, N, W] whatever the layout of the tower. In a ViT row 0 is the class token, then come the
    patches; hooks may overwrite rows and append rows behind the patches, as visual prompts do.

    Attributes:
        vision_input: tokens -> tokens, after the positional embedding, before the first LayerNorm (ViT only).
        vision: (block, tokens) -> tokens, before each vision block. In a ResNet the blocks are its four
            stages and the tokens are [B, channels, H, W].
        text: (block, tokens) -> tokens, before each text block.
        tap: (tower, block, output), after each block; block -1 of the vision tower is the stem: patch
            embeddings [B, M, W] of a ViT before class token and positions, the stem of a ResNet.
    """

    vision_input: Callable[[Tensor], Tensor] | None = None
    vision: BlockHook | None = None
    text: BlockHook | None = None
    tap: Tap | None = None


def before(hook: BlockHook | None, block: int, tokens: Tensor) -> Tensor:
    """Tokens as the hook leaves them; unchanged without a hook."""
    return tokens if hook is None else hook(block, tokens)


def run_block(transformer: nn.Module, block: nn.Module, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """One open_clip block on [B, N, W], in the layout and with the checkpointing its transformer asks for."""
    batch_first = getattr(transformer, "batch_first", True)

    def run(x: Tensor) -> Tensor:
        x = x if batch_first else x.transpose(0, 1)
        x = block(x, attn_mask=mask)
        return x if batch_first else x.transpose(0, 1)

    if getattr(transformer, "grad_checkpointing", False) and torch.is_grad_enabled():
        return checkpoint(run, tokens, use_reentrant=False)
    return run(tokens)
