"""Longer context for a text tower: its positional embedding is stretched, as in Long-CLIP."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from ..core.errors import UserError
from .towers import TextTransformer

if TYPE_CHECKING:
    from .model import Backbone

CLIP_LENGTH = 77  # context length of CLIP
FACTOR = 4  # Long-CLIP stretches 77 positions to 248


def long_clip_length(length: int, keep: int) -> int:
    """Return Long-CLIP's context length: `keep` positions unchanged, and four for each of the others.

    Example:
        >>> long_clip_length(77, keep=20)
        248
    """
    return keep + FACTOR * (length - keep) if length > keep else length


def stretch_table(table: Tensor, length: int, keep: int) -> Tensor:
    """Return a positional embedding whose first rows are kept and whose others are interpolated linearly.

    New row keep + j reads the old table at keep + j (L - keep) / (length - keep); beyond the last old row, the line
    through the last two is extrapolated. Long-CLIP's recipe is L = 77, keep = 20 and length = 248: steps of a quarter,
    with the last three rows extrapolated.

    Args:
        table: [L, W].
        length: rows of the result, more than L.
        keep: rows that stay as they are, at most L - 2.

    Returns:
        [length, W].

    Example:
        >>> stretch_table(torch.tensor([[0.0], [1.0], [2.0]]), length=5, keep=1).squeeze(1)
        tensor([0.0000, 1.0000, 1.5000, 2.0000, 2.5000])
    """
    old = len(table)
    # In float64, so that positions that fall on an old row reproduce it exactly.
    at = keep + torch.arange(length - keep, dtype=torch.float64, device=table.device) * (
        (old - keep) / (length - keep)
    )  # [length - keep]
    left = at.floor().long().clamp_max(old - 2)
    weight = (at - left).unsqueeze(1)  # [length - keep, 1]; above 1 beyond the last row, which extrapolates
    exact = table.double()
    interpolated = (1 - weight) * exact[left] + weight * exact[left + 1]  # [length - keep, W]
    return torch.cat([table[:keep], interpolated.to(table.dtype)])


def stretch_positions(backbone: Backbone, length: int, keep: int = 20) -> None:
    """Set the context length of a text tower in place: positions, causal mask and tokenizer.

    Args:
        backbone: an open_clip `CLIP` or `CustomTextCLIP` with a positional embedding for text.
        length: new context length. If it is shorter than the present one, the positional embedding is truncated,
            which does not change the features of texts that still fit.
        keep: number of first positions that stay as they are, where most pre-training captions ended.

    Raises:
        UserError: the text tower has no positional embedding, or appends a class token to the text; `length` or
            `keep` is out of range.

    Source: Zhang et al., Long-CLIP, ECCV 2024.
    """
    tower = position_tower(backbone)
    old = tower.positional_embedding
    if length == len(old):
        return
    if length < 2:
        raise UserError(f"--context-length {length}: must be at least 2, for the start and the end token")
    if length > len(old) and not 0 <= keep <= len(old) - 2:
        raise UserError(f"--keep-positions {keep}: must be 0 to {len(old) - 2} of {len(old)} positions")
    with torch.no_grad():
        new = old[:length].clone() if length < len(old) else stretch_table(old.detach(), length, keep)
    tower.positional_embedding = nn.Parameter(new, requires_grad=old.requires_grad)
    if tower.attn_mask is not None:
        causal = torch.full((length, length), float("-inf"), device=new.device, dtype=tower.attn_mask.dtype)
        tower.register_buffer("attn_mask", causal.triu(1), persistent=False)
    for module in (tower, backbone.model):
        module.context_length = length
        if hasattr(module, "num_pos"):
            module.num_pos = length
    backbone.context_length = length
    backbone.tokenizer.context_length = length  # type: ignore[attr-defined]


def can_stretch(backbone: Backbone) -> bool:
    """Return whether the text tower has a positional embedding that can be stretched."""
    tower = getattr(backbone.model, "text", backbone.model)
    table = getattr(tower, "positional_embedding", None)
    return isinstance(table, nn.Parameter) and getattr(tower, "cls_emb", None) is None


def position_tower(backbone: Backbone) -> TextTransformer:
    """Return the module that holds the positional embedding of texts.

    Raises:
        UserError: there is none that can be stretched.
    """
    tower = getattr(backbone.model, "text", backbone.model)
    if not can_stretch(backbone):
        raise UserError(
            f'backbone "{backbone.spec}": its text tower ({type(tower).__name__}) has no positional embedding that '
            "can be stretched"
        )
    return cast(TextTransformer, tower)


class FrozenPositions:
    """Freeze the first rows of a trained positional embedding, against gradient and weight decay.

    Long-CLIP's code has two positional embeddings and takes the first rows from a frozen one. A single one whose first
    rows receive no gradient and are restored after each step computes the same, and is saved as one tensor.

    Args:
        backbone: its positional embedding is trained from now on.
        keep: number of frozen rows; 0 for none.
    """

    def __init__(self, backbone: Backbone, keep: int) -> None:
        self.table: nn.Parameter = position_tower(backbone).positional_embedding
        self.rows = self.table.detach()[:keep].clone()  # [keep, W]
        self.table.requires_grad_(True)  # hooks need a tensor that requires grad
        self.remove: Callable[[], None] = self.table.register_hook(self._without_gradient).remove

    def _without_gradient(self, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()  # hooks must not change their argument
        gradient[: len(self.rows)] = 0
        return gradient

    @torch.no_grad()
    def restore(self) -> None:
        """Restore the frozen rows after an optimiser step, since weight decay changes them without a gradient."""
        self.table[: len(self.rows)] = self.rows
