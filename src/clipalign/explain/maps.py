"""Where a model looks, and where it finds a text: maps over the patches, from one dense pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from ..backbone import Backbone


@dataclass(frozen=True)
class Maps:
    """Maps on the grid of patches, gh x gw, float32 on the CPU. None is scaled for display.

    Attributes:
        attention: [B, gh, gw], the class token's attention over the patches, mean over heads and layers;
            each map sums to 1.
        patches: [B, C, gh, gw], cosine of patch tokens and class text. In CLIP they often point away from the
            object.
        guide: [B, C, gh, gw], the same of the tokens of the second path (D-V), which AlignCLIP aligns to.
    """

    attention: Tensor
    patches: Tensor
    guide: Tensor

    def of(self, classes: Tensor) -> Maps:
        """One class per image: patches and guide become [B, gh, gw].

        Args:
            classes: [B] int64, positions on the class axis.
        """
        rows = torch.arange(len(classes))
        return Maps(self.attention, self.patches[rows, classes], self.guide[rows, classes])


def aligned_layers(num_blocks: int) -> tuple[int, ...]:
    """The layers whose attention AlignCLIP aligns: the first third (published: 4 of 12)."""
    return tuple(range(max(1, round(num_blocks / 3))))


@torch.no_grad()
def make_maps(
    backbone: Backbone,
    images: Tensor,
    text: Tensor,
    *,
    layers: Sequence[int] | None = None,
    guide: str = "dv",
    dual_blocks: int | None = None,
) -> Maps:
    """Maps of a batch for every text.

    Args:
        backbone: any tower with patches; its grid need not be square.
        images: [B, 3, H, W], normalised for the backbone.
        text: [C, d], unit rows.
        layers: whose attention is averaged. Default: those AlignCLIP aligns.
        guide: structure of the second path.
        dual_blocks: number of blocks it runs in. Default: half of them.
    """
    layers = aligned_layers(backbone.num_blocks) if layers is None else tuple(layers)
    dense = backbone.dense(images, attention_layers=layers, guide=guide, dual_blocks=dual_blocks)
    assert dense.guide is not None
    grid = backbone.grid

    def similarity(tokens: Tensor) -> Tensor:
        cosine = F.normalize(tokens.float(), dim=-1) @ text.float().T
        return cosine.transpose(1, 2).unflatten(-1, grid).cpu()

    attention = dense.cls_attention.float().mean(dim=0).unflatten(-1, grid).cpu()
    return Maps(attention, similarity(dense.patches), similarity(dense.guide))
