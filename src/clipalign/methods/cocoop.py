"""CoCoOp: CoOp's context plus an offset that a small network computes from each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..backbone.text.context import initial_context
from ..backbone.text.prompts import ClassPrompts
from ..core.config import Options, facts
from ..core.search import NEW_PARAMETERS, SearchSpace
from ..losses import cosine_logits
from . import register
from .base import Classifier, Method

if TYPE_CHECKING:
    from ..backbone import Backbone
    from ..core.types import Batch, Episode


@dataclass(frozen=True)
class CoCoOpConfig(Options):
    """Published defaults."""

    context_tokens: int | None = field(
        default=None, metadata=facts(unit="TOKENS", unset="4, or the phrase's")
    )
    """Learned vectors per prompt. By default the tokens of --context-init, or 4 without a phrase."""
    context_init: str = field(default="a photo of a", metadata=facts(unit="TEXT"))
    """Phrase that initialises the vectors. They start as its token embeddings; empty: normal(0, 0.02)."""
    meta_net_reduction: int = field(
        default=16, metadata=facts(unit="FACTOR", at_least=1, reason="CoCoOp: 512 / 32")
    )
    """Feature width over Meta-Net width."""
    prompts_at_once: int = field(default=4096, metadata=facts(unit="PROMPTS", at_least=1))
    """Prompts per text forward pass. One prompt per image and class; memory grows with it, results do not depend on
    it."""


@register("cocoop")
class CoCoOp(Method[CoCoOpConfig]):
    """L = CE(s I_b T(V + pi_b)ᵀ, y_b) with pi_b = MetaNet(I_b): every image has its own prompts of all classes.

    The released code encodes B x C prompts of 77 tokens, one image after the other. Here images run together, in
    chunks that are recomputed in the backward pass; the tokens that the prompts of an image share (start token and
    context) run once per image, and each prompt adds class name, full stop and end token. The values are the same.
    """

    summary = "context vectors shifted by a small network of each image"
    source = "Zhou et al., Conditional Prompt Learning for Vision-Language Models, CVPR 2022"
    trains = "context vectors and Meta-Net"
    needs = ("text prompts",)
    Config = CoCoOpConfig
    search: ClassVar[SearchSpace] = NEW_PARAMETERS
    uses_templates = False

    def setup(self, backbone: Backbone, episode: Episode, templates: Sequence[str]) -> None:
        super().setup(backbone, episode, templates)
        o = self.config
        start = initial_context(backbone, o.context_init, o.context_tokens, default=4)  # [m, W]
        self.hidden = max(1, backbone.embed_dim // o.meta_net_reduction)
        self.context = nn.Parameter(start)  # V, [m, W]
        self.meta_net = nn.Sequential(
            nn.Linear(backbone.embed_dim, self.hidden), nn.ReLU(), nn.Linear(self.hidden, start.shape[1])
        ).to(backbone.device)
        self.extra["prompts"] = nn.ParameterDict({"context": self.context})
        self.extra["meta_net"] = self.meta_net
        self.prompts = self.class_prompts(episode.class_names)

    def resolved(self) -> dict[str, object]:
        return {"context_tokens": len(self.context), "meta_net_units": self.hidden}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        image = self.image_features(batch.images)  # [B, d]
        text = self.prompt_features(image, self.prompts)  # [B, C, d]
        logits = cosine_logits(image, text, self.scale)  # [B, C]
        return {"loss_ce": F.cross_entropy(logits, batch.labels)}

    def classifier(self, class_names: Sequence[str], templates: Sequence[str] | None = None) -> Classifier:
        prompts = self.class_prompts(class_names)

        def logits(images: Tensor) -> Tensor:
            image = self.image_features(images)  # [B, d]
            return cosine_logits(image, self.prompt_features(image, prompts), self.scale)  # [B, C]

        return logits

    def class_prompts(self, class_names: Sequence[str]) -> ClassPrompts:
        """Return the fixed part of the prompts of C classes."""
        return ClassPrompts(self.backbone, class_names, len(self.context))

    def prompt_features(self, image: Tensor, prompts: ClassPrompts) -> Tensor:
        """Return the L2-normalised text features of each image's prompts: [B, d] -> [B, C, d]."""
        context = self.context + self.meta_net(image).unsqueeze(1)  # [m, W] + [B, 1, W] -> [B, m, W]
        return prompts.encode(context, self.config.prompts_at_once)

    @torch.no_grad()
    def explain_text_features(self, texts: Sequence[str], images: Tensor) -> Tensor:
        return self.prompt_features(self.image_features(images), self.class_prompts(texts))[0]
