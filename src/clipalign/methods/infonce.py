"""InfoNCE: CLIP's loss on captions, the baseline of Long-CLIP and SmartCLIP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from torch import Tensor

from .. import losses
from ..core.config import facts
from . import register
from .shared.captions import CaptionConfig, CaptionMethod, caption_lengths, cut_statistics
from .shared.contrastive import Features, all_rows, clip_scale, scale_ceiling

if TYPE_CHECKING:
    from ..backbone import Backbone
    from ..core.types import Batch, Episode


@dataclass(frozen=True)
class InfoNceConfig(CaptionConfig):
    """Options of plain contrastive fine-tuning."""

    fixed_scale: float | None = field(default=None, metadata=facts(unit="SCALE", unset="trained", above=0))
    """Fixed logit scale. By default CLIP's is trained, and clipped at 100 as in CLIP."""


InfoNceConfigT = TypeVar("InfoNceConfigT", bound=InfoNceConfig)


@register("infonce")
class InfoNce(CaptionMethod[InfoNceConfigT]):
    """L = (CE(s I Tᵀ, diagonal) + CE(s T Iᵀ, diagonal)) / 2 over images and captions, I and T L2-normalised.

    Direct fine-tuning in the papers' comparisons, on whole captions (--captions long) or random prefixes (--captions
    prefix), with the text window and the run options of the method it is compared with.
    """

    summary = "CLIP's contrastive loss on captions: direct fine-tuning"
    source = "Radford et al., ICML 2021; the baseline of Long-CLIP and SmartCLIP"
    trains = "both towers and the logit scale"
    trains_image_tower = True
    Config: type[InfoNceConfigT] = InfoNceConfig  # type: ignore[assignment]

    def setup(self, backbone: Backbone, episode: Episode, templates: Sequence[str]) -> None:
        super().setup(backbone, episode, templates)
        backbone.model.logit_scale.requires_grad_(self.config.fixed_scale is None)
        self.ceiling = scale_ceiling(backbone)

    def features(self, batch: Batch) -> dict[str, Tensor]:
        tokens = self.tokens(batch)
        return {
            "image": self.image_features(batch.images),  # [B, d]
            "text": self.encode_tokens(tokens),  # [B, d]
            "lengths": caption_lengths(tokens, batch.images.device),  # [B, 2]
        }

    def loss_from_features(self, local: Features, gathered: Features, first: int = 0) -> dict[str, Tensor]:
        scale, everything = self.loss_scale, all_rows(local, gathered)
        image_to_text, text_to_image = losses.contrastive_loss(
            local["image"], local["text"], scale, everything.get("image"), everything.get("text"), first=first
        )
        return {
            "loss_image_to_text": image_to_text / 2,
            "loss_text_to_image": text_to_image / 2,
            "logit_scale": scale.detach(),
            **cut_statistics(local["lengths"], gathered["lengths"]),
        }

    @property
    def loss_scale(self) -> Tensor:
        """The logit scale s of the loss, a scalar; with gradient if it is trained."""
        own = self.backbone.logit_scale
        return own if self.config.fixed_scale is None else own.new_tensor(self.config.fixed_scale)

    def after_step(self, step: int) -> None:
        super().after_step(step)
        clip_scale(self.backbone, self.ceiling)
