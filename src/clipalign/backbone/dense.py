"""What one dense pass is asked for, and what it gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..core.errors import UserError
from .attention import AttentionOver, check_structure


@dataclass(frozen=True)
class DenseFeatures:
    """Output of one dense pass. No feature is normalised.

    Attributes:
        image: [B, d], equal to `encode_image`.
        patches: [B, M, d], patch tokens after the tower's last LayerNorm and projection.
        cls_attention: [L, B, M], the class token's attention over the patches in each asked layer: mean over
            heads, rows sum to 1.
        guide: [B, M, d], patch tokens of the second path, or None.
    """

    image: Tensor
    patches: Tensor
    cls_attention: Tensor
    guide: Tensor | None


@dataclass(frozen=True)
class DenseOptions:
    """Checked arguments of `Backbone.dense`, with layers counted from 0."""

    attention_layers: tuple[int, ...]
    attention_over: AttentionOver
    guide: str | None
    dual_blocks: int
    detach_guide: bool
    keep_mlp: bool


def check_request(
    num_blocks: int,
    attention_layers: Sequence[int],
    attention_over: AttentionOver,
    guide: str | None,
    dual_blocks: int | None,
    detach_guide: bool,
    keep_mlp: bool,
) -> DenseOptions:
    """Arguments of `Backbone.dense` for a tower of `num_blocks` attention layers.

    Raises:
        UserError: a layer or a number of dual blocks that the tower does not have, an unknown structure.
    """
    layers = tuple(i + num_blocks if i < 0 else i for i in attention_layers)
    if any(not 0 <= i < num_blocks for i in layers):
        raise UserError(
            f"attention layers {list(attention_layers)}: this backbone has {num_blocks} "
            f"(0 to {num_blocks - 1}, or negative from the end)"
        )
    if attention_over not in ("patches", "tokens"):
        raise UserError(f'attention over "{attention_over}": choose "patches" or "tokens"')
    dual = max(1, num_blocks // 2) if dual_blocks is None else dual_blocks
    if guide is not None and not 1 <= dual <= num_blocks:
        raise UserError(f"dual blocks {dual}: this backbone allows 1 to {num_blocks}")
    structure = None if guide is None else check_structure(guide)
    return DenseOptions(layers, attention_over, structure, dual, detach_guide, keep_mlp)
