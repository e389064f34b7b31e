"""Plain fine-tuning: the image tower is trained with cross-entropy against frozen text features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F

from ..losses import cosine_logits
from . import register
from .base import ConfigT, Method

if TYPE_CHECKING:
    from ..backbone import Backbone
    from ..core.types import Batch, Episode


@register("erm")
class Erm(Method[ConfigT]):
    """L = CE(s I Tᵀ, y) with T, the text features of the class prompts, computed once.

    CLIPood without margin and without weight averaging. The "ERM, CLIP" rows of the CLIPood and AlignCLIP papers have
    no released code; this follows their description, with CLIPood's optimiser settings. DomainBed's ERM with a linear
    head (`erm-linear-head`) is another method; its published numbers are up to 13 points lower.
    """

    summary = "plain fine-tuning of the image tower against the frozen class prompts"
    source = "baseline of Shu et al., CLIPood, ICML 2023"
    trains = "image tower"
    trains_image_tower = True

    def setup(self, backbone: Backbone, episode: Episode, templates: Sequence[str]) -> None:
        super().setup(backbone, episode, templates)
        self.train_image_tower()
        self.text = self.text_features(episode.class_names)  # [C, d]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        image = self.image_features(batch.images)  # [B, d]
        logits = cosine_logits(image, self.text, self.scale)  # [B, C]
        return {"loss_ce": F.cross_entropy(logits, batch.labels)}
