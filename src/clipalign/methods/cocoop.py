"""CoCoOp: CoOp's context, shifted by what a small network makes of each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..backbone.text.context import initial_context
from ..backbone.text.prompts import ClassPrompts, cosine_logits
from ..core.errors import UserError
from . import register
from .base import Classifier, Method
from .coop import TRAINER, ContextConfig

if TYPE_CHECKING:
    from ..backbone import Backbone
    from ..core.types import Batch, Episode


@dataclass(frozen=True)
class CoCoOpConfig(ContextConfig):
    """Published defaults."""

    context_init: str = "a photo of a"
    """Phrase whose token embeddings are the start; "" for normal(0, 0.02)."""
    meta_net_reduction: int = 16
    """Hidden units of the Meta-Net: the joint size d over this (published: 512 / 16)."""
    prompts_at_once: int = 4096
    """Prompts (images x classes) that run together. Memory grows with it, results do not depend on it."""

    def __post_init__(self) -> None:
        for name in ("meta_net_reduction", "prompts_at_once"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(self, name)}")


@register("cocoop")
class CoCoOp(Method):
    """z_b = s I_b T(V + pi_b)ᵀ with pi_b = MetaNet(I_b), I_b normalised: prompts of all classes per image.

    The published loop encodes B x C prompts of 77 tokens one image after the other. Here images run together,
    in chunks that are computed again in the backward pass. What an image's prompts have in common (start
    token and context) runs once per image, and each prompt adds its name, full stop and end token: the same
    values for a fraction of the work.
    """

    summary = "context vectors shifted by a small network of each image"
    source = "Zhou et al., Conditional Prompt Learning for Vision-Language Models, CVPR 2022"
    trains = "context vectors and Meta-Net"
    Config = CoCoOpConfig
    uses_templates = False
    published: ClassVar[Mapping[str, Any]] = {
        # Few-shot training, 16 images of 50 classes: 10 epochs of 800 steps.
        **TRAINER,
        "warmup_steps": 1 / 10,
        "steps": 8000,
        "batch_size": 1,
    }

    def setup(self, backbone: Backbone, episode: Episode, templates: Sequence[str]) -> None:
        super().setup(backbone, episode, templates)
        o: CoCoOpConfig = self.config
        start = initial_context(backbone, o.context_init, o.context_tokens, default=4)
        self.hidden = max(1, backbone.embed_dim // o.meta_net_reduction)
        self.context = nn.Parameter(start)  # V, [m, W]
        self.meta_net = nn.Sequential(
            nn.Linear(backbone.embed_dim, self.hidden), nn.ReLU(), nn.Linear(self.hidden, start.shape[1])
        ).to(backbone.device)
        self.extra["prompts"] = nn.ParameterDict({"context": self.context})
        self.extra["meta_net"] = self.meta_net
        self.prompts = ClassPrompts(backbone, episode.class_names, len(start))

    def resolved(self) -> dict[str, Any]:
        return {"context_tokens": len(self.context), "meta_net_units": self.hidden}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss_ce": F.cross_entropy(self.logits(batch.images, self.prompts), batch.labels)}

    def classifier(self, class_names: Sequence[str], templates: Sequence[str] | None = None) -> Classifier:
        prompts = ClassPrompts(self.backbone, class_names, self.prompts.learned)
        return lambda images: self.logits(images, prompts)

    @torch.no_grad()
    def spoken(self, texts: Sequence[str], images: Tensor) -> Tensor:
        prompts = ClassPrompts(self.backbone, texts, self.prompts.learned)
        return self.prompt_features(self.image_features(images), prompts)[0].float()

    def logits(self, images: Tensor, prompts: ClassPrompts) -> Tensor:
        """[B, 3, H, W] -> [B, C]."""
        image = self.image_features(images)
        return cosine_logits(self.scale, image, self.prompt_features(image, prompts))

    def prompt_features(self, image: Tensor, prompts: ClassPrompts) -> Tensor:
        """Image features [B, d] -> the texts of each image, [B, C, d] unit rows."""
        context = self.context + self.meta_net(image).unsqueeze(1)
        return prompts.encode(context, self.config.prompts_at_once)
