"""Long-CLIP: whole captions against images, first sentences against the principal components of images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from .. import losses
from ..core.config import facts
from ..data.captions.sentences import first_sentence
from . import register
from .infonce import InfoNce, InfoNceConfig
from .shared.captions import cut_statistics
from .shared.contrastive import Features, all_rows

if TYPE_CHECKING:
    from ..core.types import Batch


@dataclass(frozen=True)
class LongClipConfig(InfoNceConfig):
    """Options of the two branches."""

    components: int = field(default=32, metadata=facts(unit="COUNT", at_least=1, reason="Long-CLIP"))
    """Principal components for short captions. They are those of the batch's image features."""
    short_weight: float = field(default=1.0, metadata=facts(unit="WEIGHT", at_least=0, reason="Long-CLIP"))
    """Weight of short captions; 0: none. Long captions have weight 1."""
    label_smoothing: float = field(
        default=0.1, metadata=facts(unit="SHARE", at_least=0, below=1, reason="Long-CLIP, released")
    )
    """Target spread over the batch. In both branches."""


@register("long-clip")
class LongClip(InfoNce[LongClipConfig]):
    """L = InfoNCE(I, T_long) + w InfoNCE(PCA(I), T_short), each the mean of its two directions.

    I are L2-normalised image features; PCA(I) keeps their 32 largest principal components over the batch (mean added
    back, not normalised again, as in the released code); T_short encodes the first sentence of each caption,
    without the full stop if others follow, as in the released code.

    Unlike the released code, the components are those of the whole batch instead of each GPU's part, and are treated as
    constants (`losses.project_to_components`). Only --captions long is as published.
    """

    summary = "long captions beside short ones against 32 principal components"
    source = "Zhang et al., Long-CLIP, ECCV 2024"
    Config = LongClipConfig

    def features(self, batch: Batch) -> dict[str, Tensor]:
        features = super().features(batch)
        assert batch.captions is not None
        short = tuple(first_sentence(caption) for caption in batch.captions)
        return features | {"short": self.encode_tokens(self.tokens(batch, short))}  # [B, d]

    def loss_from_features(self, local: Features, gathered: Features, first: int = 0) -> dict[str, Tensor]:
        o, scale, everything = self.config, self.loss_scale, all_rows(local, gathered)
        image_to_text, text_to_image = losses.contrastive_loss(
            local["image"],
            local["text"],
            scale,
            everything.get("image"),
            everything.get("text"),
            first=first,
            label_smoothing=o.label_smoothing,
        )
        coarse = losses.project_to_components(gathered["image"], gathered["image"], o.components)  # [N, d]
        image_to_short, short_to_image = losses.contrastive_loss(
            coarse[first : first + len(local["image"])],  # [b, d]
            local["short"],
            scale,
            coarse if everything else None,
            everything.get("short"),
            first=first,
            label_smoothing=o.label_smoothing,
        )
        return {
            "loss_image_to_text": image_to_text / 2,
            "loss_text_to_image": text_to_image / 2,
            "loss_image_to_short": o.short_weight * image_to_short / 2,
            "loss_short_to_image": o.short_weight * short_to_image / 2,
            "logit_scale": scale.detach(),
            **cut_statistics(local["lengths"], gathered["lengths"]),
        }
