"""Long-CLIP: whole captions against images, first sentences against what is coarse of the images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from .. import losses
from ..core.errors import UserError
from ..data.captions.sentences import join_sentences, split_sentences
from . import register
from .infonce import InfoNce, InfoNceConfig
from .shared.captioned import LONG_CLIP, cut_statistics
from .shared.contrastive import Features, beyond

if TYPE_CHECKING:
    from ..core.types import Batch


@dataclass(frozen=True)
class LongClipConfig(InfoNceConfig):
    """Options of the two branches."""

    components: int = 32
    """Principal components of the batch's image features that the short branch keeps."""
    short_weight: float = 1.0
    """Weight of the short branch; the long one has 1. 0 leaves it out of the loss."""
    label_smoothing: float = 0.1
    """Share of each target that is spread over the batch, in both branches, as released."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.components < 1:
            raise UserError(f"--components must be at least 1, not {self.components}")
        if not self.short_weight >= 0:
            raise UserError(f"--short-weight must be at least 0, not {self.short_weight:g}")
        if not 0 <= self.label_smoothing < 1:
            raise UserError(f"--label-smoothing must be in [0, 1), not {self.label_smoothing:g}")


@register("long-clip")
class LongClip(InfoNce):
    """L = InfoNCE(I, T_long) + w InfoNCE(PCA(I), T_short), each half of its two directions.

    I are unit image features, PCA(I) the same with nothing but their 32 largest principal components over the
    batch (mean added back, not normalised again, as released), T_short the first sentence of each caption.

    Different from the released code: the components are those of the whole batch, not of each GPU's part, and count as
    constants (`losses.project_to_components`). Only captions with --captions long are what was published.
    """

    summary = "long captions beside short ones against 32 principal components"
    source = "Zhang et al., Long-CLIP, ECCV 2024"
    trains = "both towers and the logit scale"
    Config = LongClipConfig
    published: ClassVar[Mapping[str, Any]] = {**LONG_CLIP, "batch_size": 2048}

    def features(self, batch: Batch) -> dict[str, Tensor]:
        found = super().features(batch)
        assert batch.captions is not None
        short = tuple(join_sentences(split_sentences(caption)[:1]) for caption in batch.captions)
        return found | {"short": self.unit_text(self.tokens(batch, short))}

    def loss_from_features(self, local: Features, everyone: Features, first: int = 0) -> dict[str, Tensor]:
        o, others, scale = self.config, beyond(local, everyone), self.factor
        image_to_text, text_to_image = losses.contrastive_loss(
            local["image"],
            local["text"],
            scale,
            others.get("image"),
            others.get("text"),
            first=first,
            label_smoothing=o.label_smoothing,
        )
        coarse = losses.project_to_components(everyone["image"], everyone["image"], o.components)
        mine = coarse[first : first + len(local["image"])]
        image_to_short, short_to_image = losses.contrastive_loss(
            mine,
            local["short"],
            scale,
            coarse if others else None,
            others.get("short"),
            first=first,
            label_smoothing=o.label_smoothing,
        )
        return {
            "loss_image_to_text": image_to_text / 2,
            "loss_text_to_image": text_to_image / 2,
            "loss_image_to_short": o.short_weight * image_to_short / 2,
            "loss_short_to_image": o.short_weight * short_to_image / 2,
            "logit_scale": scale.detach(),
            **cut_statistics(local["lengths"], everyone["lengths"]),
        }
