"""FLYP: fine-tune as CLIP was pre-trained, with the contrastive loss and class prompts as captions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from . import register
from .base import Method

if TYPE_CHECKING:
    from ..backbone import Backbone
    from ..data.base import Batch
    from ..protocols.base import Episode

CEILING = math.log(100)  # CLIP clips its logit scale at 100


@dataclass(frozen=True)
class FlypConfig:
    """Options of the contrastive loss."""

    positives: Literal["diagonal", "same-class"] = "diagonal"
    """diagonal: each image against its own prompt, although other images of the batch may share its class
    (published). same-class: every prompt of the image's class is right, in equal shares."""


@register("flyp")
class Flyp(Method):
    """L = (CE(s I Tᵀ, rows) + CE(s T Iᵀ, columns)) / 2 over a batch of images and prompts of their classes.

    Each image's prompt is its class name in a template drawn at random from those of the data set. Both
    towers and the scale s are trained; predictions embed the class prompts with the trained text tower.
    """

    summary = "CLIP's contrastive loss between images and prompts of their classes"
    source = "Goyal et al., Finetune like you pretrain, CVPR 2023"
    trains = "both towers and the logit scale"
    Config = FlypConfig
    mean_over_rows = False
    published: ClassVar[Mapping[str, Any]] = {
        "lr": 1e-5,
        "weight_decay": 0.1,
        "optimizer": "adamw",
        "schedule": "cosine",
        "warmup_steps": 0.02,  # 500 of 25,000
        "batch_size": 512,
    }

    def setup(self, backbone: Backbone, episode: Episode, templates: Sequence[str]) -> None:
        from ..text import prompts

        super().setup(backbone, episode, templates)
        backbone.model.requires_grad_(True)
        by_class = prompts(episode.class_names, self.templates)
        tokens = backbone.tokenize([text for texts in by_class for text in texts])
        tokens.warn_if_cut()
        self.tokens = tokens.ids.unflatten(0, (len(by_class), -1))  # [C, templates, n]
        self.ceiling = max(CEILING, float(backbone.model.logit_scale.detach().max()))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        labels = batch.labels
        drawn = torch.randint(self.tokens.shape[1], (len(batch),))
        # Prompts that occur twice are encoded once.
        pairs, which = torch.stack([labels.cpu(), drawn], dim=1).unique(dim=0, return_inverse=True)
        text = F.normalize(self.backbone.encode_text(self.tokens[pairs[:, 0], pairs[:, 1]]), dim=-1)
        image = self.image_features(batch.images)
        scale = self.backbone.logit_scale
        logits = (scale * image @ text[which.to(text.device)].T).float()
        same = labels[:, None] == labels[None, :]
        if self.config.positives == "diagonal":
            same = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        targets = same.float() / same.sum(dim=1, keepdim=True)
        return {
            "loss_image_to_text": F.cross_entropy(logits, targets) / 2,
            "loss_text_to_image": F.cross_entropy(logits.T, targets) / 2,
            "logit_scale": scale,
        }

    def after_step(self, step: int) -> None:
        with torch.no_grad():
            self.backbone.model.logit_scale.clamp_(max=self.ceiling)
