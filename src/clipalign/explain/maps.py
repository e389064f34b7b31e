"""Maps over the patches of an image: class-token attention, and similarity to texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..losses import cosine_logits, unit_features

if TYPE_CHECKING:
    from ..backbone import Backbone


@dataclass(frozen=True)
class Maps:
    """Maps on the grid of patches, float32 on the CPU, not scaled for display.

    Attributes:
        attention: [B, gh, gw], attention of the class token to the patches, averaged over heads and layers; each map
            sums to 1.
        patches: [B, C, gh, gw], cosine between patch tokens and text features. In CLIP they often highlight the
            background instead of the object.
        guide: [B, C, gh, gw], the same for the tokens of the dual path (D-V), with which AlignCLIP aligns attention.
    """

    attention: Tensor
    patches: Tensor
    guide: Tensor

    def of(self, classes: Tensor) -> Maps:
        """Select one text per image.

        Args:
            classes: [B] int64, positions on the text axis.

        Returns:
            Maps whose `patches` and `guide` are [B, gh, gw].
        """
        rows = torch.arange(len(classes))
        return Maps(self.attention, self.patches[rows, classes], self.guide[rows, classes])


def aligned_layers(num_blocks: int) -> tuple[int, ...]:
    """Return the layers whose attention AlignCLIP aligns: the first third (published: 4 of 12).

    >>> aligned_layers(12)
    (0, 1, 2, 3)
    """
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
    """Compute the maps of a batch in one forward pass.

    Args:
        backbone: tower with patches; its grid need not be square.
        images: [B, 3, H, W], normalised for the backbone.
        text: [C, d], L2-normalised.
        layers: layers whose attention is averaged. Default: `aligned_layers`.
        guide: structure of the dual path.
        dual_blocks: number of blocks of the dual path. Default: half of all blocks.
    """
    layers = aligned_layers(backbone.num_blocks) if layers is None else tuple(layers)
    dense = backbone.dense(images, attention_layers=layers, guide=guide, dual_blocks=dual_blocks)
    assert dense.guide is not None
    grid = backbone.grid

    def similarity(tokens: Tensor) -> Tensor:
        cosine = cosine_logits(unit_features(tokens), text, 1.0)  # [B, N, C]
        return cosine.transpose(1, 2).unflatten(-1, grid).cpu()  # [B, C, gh, gw]

    attention = dense.cls_attention.float().mean(dim=0).unflatten(-1, grid).cpu()  # [L, B, N] -> [B, gh, gw]
    return Maps(attention, similarity(dense.patches), similarity(dense.guide))
