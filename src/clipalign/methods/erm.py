"""Plain fine-tuning: cross-entropy with the frozen text classifier, the image tower trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor
from torch.nn import functional as F

from . import register
from .base import Method

if TYPE_CHECKING:
    from ..backbone import Backbone
    from ..core.types import Batch, Episode


@register("erm")
class Erm(Method):
    """L = mean_b CE(softmax(s I_b Tᵀ), y_b), with T computed once from the class prompts.

    CLIPood without margin and without averaging. The "ERM, CLIP" rows of the CLIPood and AlignCLIP papers
    have no released code; this form follows their description and takes CLIPood's optimiser settings.
    DomainBed's ERM with a linear head is another method, whose published numbers lie up to 13 points lower.
    """

    summary = "plain fine-tuning of the image tower against the frozen class prompts"
    source = "baseline of Shu et al., CLIPood, ICML 2023"
    trains = "image tower"
    published: ClassVar[Mapping[str, Any]] = {
        "lr": 5e-6,
        "weight_decay": 0.1,
        "optimizer": "adamw",
        "schedule": "cosine",
        "steps": 5000,
        "batch_size": 36,
    }

    def setup(self, backbone: Backbone, episode: Episode, templates: Sequence[str]) -> None:
        super().setup(backbone, episode, templates)
        self.train_image_tower()
        self.text = self.text_features(episode.class_names)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        logits = self.scale * self.image_features(batch.images) @ self.text.T
        return {"loss_ce": F.cross_entropy(logits.float(), batch.labels)}
