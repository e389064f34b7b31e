"""A text tower's window made longer: its table of positions stretched, as Long-CLIP did."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..core.errors import UserError

if TYPE_CHECKING:
    from .model import Backbone

CLIP_LENGTH = 77  # positions of CLIP's text tower
FACTOR = 4  # Long-CLIP's: 77 positions become 248


def long_clip_length(length: int, keep: int) -> int:
    """Positions after Long-CLIP's stretching: `keep` as they are, the others four times as many (77 -> 248)."""
    return keep + FACTOR * (length - keep) if length > keep else length


def stretch_table(table: Tensor, length: int, keep: int) -> Tensor:
    """A table of positions with its first rows kept and the others interpolated linearly.

    New row keep + j reads the old table at keep + j (L - keep) / (length - keep); what lies behind the last old row
    goes on in the direction of the last two. With L = 77, keep = 20 and length = 248 these are quarter steps, the
    last three rows extrapolated: Long-CLIP's recipe.

    Args:
        table: [L, W].
        length: rows of the result, more than L.
        keep: rows taken over as they are, at most L - 2.

    Returns:
        [length, W].
    """
    old = len(table)
    # In float64, so that places which fall on an old row are that row.
    at = keep + torch.arange(length - keep, dtype=torch.float64, device=table.device) * (
        (old - keep) / (length - keep)
    )
    left = at.floor().long().clamp_max(old - 2)
    share = (at - left).unsqueeze(1)
    exact = table.double()
    moved = (1 - share) * exact[left] + share * exact[left + 1]
    return torch.cat([table[:keep], moved.to(table.dtype)])


def stretch_positions(backbone: Backbone, length: int, keep: int = 20) -> None:
    """Let a text tower read `length` tokens: positions, causal mask and tokenizer. Changes the backbone.

    Args:
        backbone: an open_clip `CLIP` or `CustomTextCLIP` with a table of text positions.
        length: new context length; below the present one the table is cut, which leaves shorter texts as they
            were.
        keep: first positions that stay as they are, which most pre-training captions were made of.

    Raises:
        UserError: a tower without such a table, or with a class token behind the text; a length or a number of
            kept positions that is impossible.

    Source: Zhang et al., Long-CLIP, ECCV 2024.
    """
    tower = position_tower(backbone)
    old = tower.positional_embedding
    if length == len(old):
        return
    if length < 2:
        raise UserError(f"--context-length {length}: start and end token alone take 2")
    if length > len(old) and not 0 <= keep <= len(old) - 2:
        raise UserError(
            f"--keep-positions {keep}: a table of {len(old)} positions can be stretched behind its first "
            f"0 to {len(old) - 2}"
        )
    with torch.no_grad():
        new = old[:length].clone() if length < len(old) else stretch_table(old.detach(), length, keep)
    tower.positional_embedding = nn.Parameter(new, requires_grad=old.requires_grad)
    if tower.attn_mask is not None:
        causal = torch.full((length, length), float("-inf"), device=new.device, dtype=tower.attn_mask.dtype)
        tower.register_buffer("attn_mask", causal.triu(1), persistent=False)
    for part in (tower, backbone.model):
        part.context_length = length
        if hasattr(part, "num_pos"):
            part.num_pos = length
    backbone.context_length = length
    backbone.tokenizer.context_length = length  # type: ignore[attr-defined]


def position_tower(backbone: Backbone) -> Any:
    """The module that holds the table of text positions.

    Raises:
        UserError: there is none that can be stretched.
    """
    tower = getattr(backbone.model, "text", backbone.model)
    table = getattr(tower, "positional_embedding", None)
    if not isinstance(table, nn.Parameter) or getattr(tower, "cls_emb", None) is not None:
        raise UserError(
            f'backbone "{backbone.spec}": its text tower ({type(tower).__name__}) has no table of positions that '
            "can be stretched"
        )
    return tower


class FrozenPositions:
    """Holds the first rows of a trained table of positions: no gradient, and no decay either.

    The published model has two tables, of which a frozen one gives the first rows. One table whose first rows
    get no gradient and are put back after each step computes the same and is saved as one.

    Args:
        backbone: with its table as it shall be trained.
        keep: rows held; 0 for none.
    """

    def __init__(self, backbone: Backbone, keep: int) -> None:
        self.table: nn.Parameter = position_tower(backbone).positional_embedding
        self.rows = self.table.detach()[:keep].clone()
        # A hook can only be put on what takes a gradient.
        self.table.requires_grad_(True)
        self.remove: Callable[[], None] = self.table.register_hook(self._without_gradient).remove

    def _without_gradient(self, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        gradient[: len(self.rows)] = 0
        return gradient

    @torch.no_grad()
    def restore(self) -> None:
        """Put the rows back: weight decay moves what has no gradient."""
        self.table[: len(self.rows)] = self.rows
