"""FLYP: fine-tune as CLIP was pre-trained, with the contrastive loss and class prompts as captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import losses
from . import register
from .shared.contrastive import ContrastiveMethod, Features, beyond, clip_scale, scale_ceiling

if TYPE_CHECKING:
    from ..backbone import Backbone
    from ..core.types import Batch, Episode


@dataclass(frozen=True)
class FlypConfig:
    """Options of the contrastive loss."""

    positives: Literal["diagonal", "same-class"] = "diagonal"
    """diagonal: each image against its own prompt, although other images of the batch may share its class
    (published). same-class: every prompt of the image's class is right, in equal shares."""


@register("flyp")
class Flyp(ContrastiveMethod):
    """L = (CE(s I Tᵀ, rows) + CE(s T Iᵀ, columns)) / 2 over a batch of images and prompts of their classes.

    Each image's prompt is its class name in a template drawn at random from those of the data set. Both
    towers and the scale s are trained; predictions embed the class prompts with the trained text tower.
    """

    summary = "CLIP's contrastive loss between images and prompts of their classes"
    source = "Goyal et al., Finetune like you pretrain, CVPR 2023"
    trains = "both towers and the logit scale"
    Config = FlypConfig
    published: ClassVar[Mapping[str, Any]] = {
        "lr": 1e-5,
        "weight_decay": 0.1,
        "optimizer": "adamw",
        "schedule": "cosine",
        "warmup_steps": 0.02,  # 500 of 25,000
        "batch_size": 512,
    }

    def setup(self, backbone: Backbone, episode: Episode, templates: Sequence[str]) -> None:
        from ..backbone.text.features import fill_templates

        super().setup(backbone, episode, templates)
        backbone.model.requires_grad_(True)
        by_class = fill_templates(episode.class_names, self.templates)
        tokens = backbone.tokenize([text for texts in by_class for text in texts])
        tokens.warn_if_truncated()
        self.tokens = tokens.ids.unflatten(0, (len(by_class), -1))  # [C, templates, n]
        self.ceiling = scale_ceiling(backbone)

    def features(self, batch: Batch) -> dict[str, Tensor]:
        labels = batch.labels
        drawn = torch.randint(self.tokens.shape[1], (len(batch),))
        # Prompts that occur twice are encoded once.
        pairs, which = torch.stack([labels.cpu(), drawn], dim=1).unique(dim=0, return_inverse=True)
        text = F.normalize(self.backbone.encode_text(self.tokens[pairs[:, 0], pairs[:, 1]]), dim=-1)
        return {
            "image": self.image_features(batch.images),
            "text": text[which.to(text.device)],
            "labels": labels,
        }

    def loss_from_features(self, local: Features, everyone: Features, first: int = 0) -> dict[str, Tensor]:
        scale, others = self.backbone.logit_scale, beyond(local, everyone)
        image_to_text, text_to_image = losses.contrastive_logits(
            local["image"], local["text"], scale, others.get("image"), others.get("text")
        )
        targets = self.targets(local["labels"], everyone["labels"], first)
        return {
            "loss_image_to_text": F.cross_entropy(image_to_text, targets) / 2,
            "loss_text_to_image": F.cross_entropy(text_to_image, targets) / 2,
            "logit_scale": scale,
        }

    def targets(self, labels: Tensor, all_labels: Tensor, first: int) -> Tensor:
        """[b] and [N] labels -> [b, N], which of all rows are right for each local one, in equal shares."""
        same = labels[:, None] == all_labels[None, :]
        if self.config.positives == "diagonal":
            own = torch.arange(first, first + len(labels), device=labels.device)
            same = own[:, None] == torch.arange(len(all_labels), device=labels.device)
        return same.float() / same.sum(dim=1, keepdim=True)

    def after_step(self, step: int) -> None:
        clip_scale(self.backbone, self.ceiling)
