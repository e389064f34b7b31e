"""Maps with the settings that a method trains with, and their labels.

Maps of any structure, layers and heads are in `evaluation.maps`, whose functions are also available here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..evaluation.maps import attention_maps, rollout_maps, similarity_maps, trace
from ..losses import cosine_logits, unit_features
from ..methods.capabilities import MapSettings, SupportsMapSettings

if TYPE_CHECKING:
    from ..backbone import Backbone
    from ..methods import Method

__all__ = [
    "Maps",
    "aligned_layers",
    "attention_label",
    "attention_maps",
    "default_settings",
    "guide_label",
    "make_maps",
    "rollout_maps",
    "settings_of",
    "similarity_maps",
    "trace",
]


@dataclass(frozen=True)
class Maps:
    """Maps on the grid of patches, float32 on the CPU, not scaled for display.

    Attributes:
        attention: [B, gh, gw], attention of the class token to the patches, averaged over heads and layers; each map
            sums to 1.
        patches: [B, C, gh, gw], cosine between patch tokens and text features. In CLIP they often highlight the
            background instead of the object.
        guide: [B, C, gh, gw], the same for the tokens of the dual path (such as D-V), with which AlignCLIP aligns
            attention.
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


def default_settings(num_blocks: int) -> MapSettings:
    """Return the published settings for a tower of `num_blocks`: first third of the layers, D-V in the last half.

    >>> settings = default_settings(12)
    >>> settings.layers, settings.guide, settings.dual_blocks
    ((0, 1, 2, 3), 'dv', 6)
    """
    return MapSettings(aligned_layers(num_blocks), max(1, num_blocks // 2))


def settings_of(method: Method) -> MapSettings | None:
    """Return the layers and the guide that a method trains with; None if it trains neither."""
    return method.map_settings() if isinstance(method, SupportsMapSettings) else None


def attention_label(settings: MapSettings) -> str:
    """Return the head of an attention map.

    >>> attention_label(default_settings(12))
    'attention, layers 0–3'
    """
    first, last = settings.layers[0], settings.layers[-1]
    return f"attention, layer {first}" if first == last else f"attention, layers {first}–{last}"


def guide_label(settings: MapSettings) -> str:
    """Return the name of a guide, with the number of its dual blocks.

    >>> guide_label(default_settings(12))
    'D-V (6 blocks)'
    """
    blocks = f"{settings.dual_blocks} block" + ("s" if settings.dual_blocks > 1 else "")
    extra = ", MLPs" if settings.keep_mlp else ""
    extra += ", centred" if settings.class_mean is not None else ""
    return f"{'-'.join(settings.guide.upper())} ({blocks}{extra})"


@torch.no_grad()
def make_maps(backbone: Backbone, images: Tensor, text: Tensor, settings: MapSettings | None = None) -> Maps:
    """Compute the maps of a batch in one forward pass.

    Args:
        backbone: tower with patches; its grid need not be square.
        images: [B, 3, H, W], normalised for the backbone.
        text: [C, d], L2-normalised.
        settings: layers and guide. Default: `default_settings`.
    """
    s = default_settings(backbone.num_blocks) if settings is None else settings
    dense = backbone.dense(
        images, s.layers, s.guide, s.dual_blocks, attention_over=s.attention_over, keep_mlp=s.keep_mlp
    )
    assert dense.guide is not None
    grid = backbone.grid

    def similarity(tokens: Tensor, texts: Tensor) -> Tensor:
        cosine = cosine_logits(unit_features(tokens), texts, 1.0)  # [B, N, C]
        return cosine.transpose(1, 2).unflatten(-1, grid).cpu()  # [B, C, gh, gw]

    attention = dense.cls_attention.float().mean(dim=0).unflatten(-1, grid).cpu()  # [L, B, N] -> [B, gh, gw]
    text = text.float()
    centred = text if s.class_mean is None else text - text.new_tensor(s.class_mean)  # [C, d]
    return Maps(attention, similarity(dense.patches, text), similarity(dense.guide, centred))
