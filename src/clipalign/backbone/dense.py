"""Arguments and result of `Backbone.dense`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..core.errors import UserError
from .attention import AttentionOver, check_structure


@dataclass(frozen=True)
class DenseFeatures:
    """Features of one dense pass, none of them normalised.

    Attributes:
        image: image features, [B, d], equal to those of `Backbone.encode_image`.
        patches: patch tokens after the tower's last LayerNorm and projection, [B, M, d].
        cls_attention: the class token's attention over the patches in each requested layer, [L, B, M]; averaged over
            heads, rows summing to 1.
        guide: patch tokens of the second path, [B, M, d]; None if none was requested.
    """

    image: Tensor
    patches: Tensor
    cls_attention: Tensor
    guide: Tensor | None


@dataclass(frozen=True)
class DenseOptions:
    """Validated arguments of `Backbone.dense`; layers are counted from 0."""

    attention_layers: tuple[int, ...]
    attention_over: AttentionOver
    guide: str | None
    dual_blocks: int
    detach_guide: bool
    keep_mlp: bool


def check_options(
    num_blocks: int,
    attention_layers: Sequence[int],
    attention_over: AttentionOver,
    guide: str | None,
    dual_blocks: int | None,
    detach_guide: bool,
    keep_mlp: bool,
) -> DenseOptions:
    """Validate the arguments of `Backbone.dense` for a tower of `num_blocks` attention layers.

    Raises:
        UserError: a layer or a number of dual blocks that the tower does not have; an unknown structure or choice.
    """
    layers = check_indices("attention layers", attention_layers, num_blocks)
    if attention_over not in ("patches", "tokens"):
        raise UserError(f'attention over "{attention_over}": choose "patches" or "tokens"')
    dual = max(1, num_blocks // 2) if dual_blocks is None else dual_blocks
    if guide is not None and not 1 <= dual <= num_blocks:
        raise UserError(f"dual blocks {dual}: this backbone allows 1 to {num_blocks}")
    structure = None if guide is None else check_structure(guide)
    return DenseOptions(layers, attention_over, structure, dual, detach_guide, keep_mlp)


def check_indices(what: str, indices: Sequence[int], count: int) -> tuple[int, ...]:
    """Return indices counted from 0, negative ones from the end.

    Raises:
        UserError: an index out of range; `what` starts the message.

    Example:
        >>> check_indices("layers", [0, -1], 12)
        (0, 11)
    """
    found = tuple(i + count if i < 0 else i for i in indices)
    if any(not 0 <= i < count for i in found):
        raise UserError(
            f"{what} {list(indices)}: this backbone has {count} (0 to {count - 1}, or negative from the end)"
        )
    return found
