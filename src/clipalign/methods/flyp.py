"""FLYP: fine-tune as CLIP was pre-trained, with class prompts as captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import losses
from ..backbone.text.features import fill_templates
from ..core.config import Options
from . import register
from .shared.contrastive import ContrastiveMethod, Features, all_rows, clip_scale, scale_ceiling

if TYPE_CHECKING:
    from ..backbone import Backbone
    from ..core.types import Batch, Episode


@dataclass(frozen=True)
class FlypConfig(Options):
    """Options of the contrastive loss."""

    positives: Literal["diagonal", "same-class"] = "diagonal"
    """Positives: diagonal or same-class. diagonal: the prompt of the image (published), although other images of
    the batch may share its class; same-class: every prompt of its class, in equal shares."""


@register("flyp")
class Flyp(ContrastiveMethod[FlypConfig]):
    """L = (CE(s I Tᵀ, q) + CE(s T Iᵀ, q)) / 2 over a batch of B images and B prompts of their classes.

    The prompt of an image is its class name in a template drawn at random from those of the data set. Both towers and
    the logit scale s are trained; predictions encode the class prompts with the trained text tower. The published
    targets q are the diagonal, although other images of the batch may share the class.
    """

    summary = "CLIP's contrastive loss between images and prompts of their classes"
    source = "Goyal et al., Finetune like you pretrain, CVPR 2023"
    trains = "both towers and the logit scale"
    trains_image_tower = True
    Config = FlypConfig

    def setup(self, backbone: Backbone, episode: Episode, templates: Sequence[str]) -> None:
        super().setup(backbone, episode, templates)
        backbone.train_towers()
        by_class = fill_templates(episode.class_names, self.templates)
        tokens = backbone.tokenize([text for texts in by_class for text in texts])
        tokens.warn_if_truncated()
        self.tokens = tokens.ids.unflatten(0, (len(by_class), -1))  # [C, templates, L]
        self.ceiling = scale_ceiling(backbone)

    def features(self, batch: Batch) -> dict[str, Tensor]:
        template = torch.randint(self.tokens.shape[1], (len(batch),))  # [B]
        # Every distinct prompt (class, template) is encoded once: P prompts, and the prompt of each image [B].
        pairs, prompt = torch.stack([batch.labels.cpu(), template], dim=1).unique(dim=0, return_inverse=True)
        ids = self.tokens[pairs[:, 0], pairs[:, 1]]  # [P, L]
        text = losses.unit_features(self.backbone.encode_text(ids))  # [P, d]
        return {
            "image": self.image_features(batch.images),  # [B, d]
            "text": text[prompt.to(text.device)],  # [B, d]
            "labels": batch.labels,
        }

    def loss_from_features(self, local: Features, gathered: Features, first: int = 0) -> dict[str, Tensor]:
        scale, everything = self.backbone.logit_scale, all_rows(local, gathered)
        image_to_text, text_to_image = losses.contrastive_logits(  # [b, N] both
            local["image"], local["text"], scale, everything.get("image"), everything.get("text")
        )
        targets = self.targets(local["labels"], gathered["labels"], first)  # [b, N]
        return {
            "loss_image_to_text": F.cross_entropy(image_to_text, targets) / 2,
            "loss_text_to_image": F.cross_entropy(text_to_image, targets) / 2,
            "logit_scale": scale,
        }

    def targets(self, labels: Tensor, all_labels: Tensor, first: int) -> Tensor:
        """Return the target distribution of each local row over the batch: [b], [N] -> [b, N]."""
        positive = labels[:, None] == all_labels[None, :]  # [b, N]
        if self.config.positives == "diagonal":
            own = torch.arange(first, first + len(labels), device=labels.device)  # [b]
            positive = own[:, None] == torch.arange(len(all_labels), device=labels.device)  # [b, N]
        return positive.float() / positive.sum(dim=1, keepdim=True)

    def after_step(self, step: int) -> None:
        clip_scale(self.backbone, self.ceiling)
