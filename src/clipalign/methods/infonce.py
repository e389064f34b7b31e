"""InfoNCE: CLIP's own loss on captions, long or in parts; what SmartCLIP and Long-CLIP are compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from .. import losses
from ..core.errors import UserError
from . import register
from .shared.captioned import LONG_CLIP, CaptionConfig, CaptionMethod, caption_lengths, cut_statistics
from .shared.contrastive import Features, beyond, clip_scale, scale_ceiling

if TYPE_CHECKING:
    from ..backbone import Backbone
    from ..core.types import Batch, Episode


@dataclass(frozen=True)
class InfoNceConfig(CaptionConfig):
    """Options of plain contrastive fine-tuning."""

    fixed_scale: float | None = None
    """Hold the factor on cosines at this value, without training it. Default: CLIP's own, trained, and clipped at
    100 as CLIP does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fixed_scale is not None and not self.fixed_scale > 0:
            raise UserError(f"--fixed-scale must be above 0, not {self.fixed_scale:g}")


@register("infonce")
class InfoNce(CaptionMethod):
    """L = (CE(s I Tᵀ, rows) + CE(s T Iᵀ, columns)) / 2 over images and captions, I and T unit rows.

    Direct fine-tuning of the papers' comparisons: on whole captions (--captions long), or on random prefixes
    (--captions prefix), with the text window and the settings of the method it stands beside.
    """

    summary = "CLIP's contrastive loss on captions: direct fine-tuning"
    source = "Radford et al., ICML 2021; the baseline of Long-CLIP and SmartCLIP"
    trains = "both towers and the logit scale"
    Config = InfoNceConfig
    published: ClassVar[Mapping[str, Any]] = {**LONG_CLIP, "batch_size": 1024}

    def setup(self, backbone: Backbone, episode: Episode, templates: Sequence[str]) -> None:
        super().setup(backbone, episode, templates)
        backbone.model.logit_scale.requires_grad_(self.config.fixed_scale is None)
        self.ceiling = scale_ceiling(backbone)

    def features(self, batch: Batch) -> dict[str, Tensor]:
        tokens = self.tokens(batch)
        return {
            "image": self.image_features(batch.images).float(),
            "text": self.unit_text(tokens),
            "lengths": caption_lengths(tokens, batch.images.device),
        }

    def loss_from_features(self, local: Features, everyone: Features, first: int = 0) -> dict[str, Tensor]:
        others, scale = beyond(local, everyone), self.factor
        image_to_text, text_to_image = losses.contrastive_loss(
            local["image"], local["text"], scale, others.get("image"), others.get("text"), first=first
        )
        return {
            "loss_image_to_text": image_to_text / 2,
            "loss_text_to_image": text_to_image / 2,
            "logit_scale": scale.detach(),
            **cut_statistics(local["lengths"], everyone["lengths"]),
        }

    @property
    def factor(self) -> Tensor:
        """s of the loss, a scalar."""
        own = self.backbone.logit_scale
        return own if self.config.fixed_scale is None else own.new_tensor(self.config.fixed_scale)

    def after_step(self, step: int) -> None:
        super().after_step(step)
        clip_scale(self.backbone, self.ceiling)
