"""CLIP-Adapter: a bottleneck network on the frozen image features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.config import Options, facts
from ..core.search import NEW_PARAMETERS, SearchSpace, Uniform
from ..losses import cosine_logits, unit_features
from . import register
from .base import Method

if TYPE_CHECKING:
    from ..backbone import Backbone
    from ..core.types import Batch, Episode


@dataclass(frozen=True)
class ClipAdapterConfig(Options):
    """Options of the adapter."""

    adapter_ratio: float = field(
        default=0.2, metadata=facts(unit="SHARE", at_least=0, at_most=1, reason="CLIP-Adapter, ImageNet")
    )
    """Share rho of the adapted feature; 0: zero-shot. CLIP-Adapter tunes it per data set."""
    adapter_reduction: int = field(
        default=4, metadata=facts(unit="FACTOR", at_least=1, reason="CLIP-Adapter")
    )
    """Feature width over hidden width."""


@register("clip-adapter")
class ClipAdapter(Method[ClipAdapterConfig]):
    """L = CE(s I' Tᵀ, y), I' = normalise(rho A(v) + (1 - rho) v), A(v) = ReLU(W2 ReLU(W1 v)).

    v is the image feature as the tower gives it; W1 [d/4, d] and W2 [d, d/4] have no biases. The class prompts
    classify, so any class list can be scored.
    """

    summary = "a two-layer adapter on frozen image features"
    source = "Gao et al., CLIP-Adapter: Better Vision-Language Models with Feature Adapters, IJCV 2024"
    trains = "adapter"
    Config = ClipAdapterConfig
    search: ClassVar[SearchSpace] = {**NEW_PARAMETERS, "adapter_ratio": Uniform(0, 1)}

    def setup(self, backbone: Backbone, episode: Episode, templates: Sequence[str]) -> None:
        super().setup(backbone, episode, templates)
        width = backbone.embed_dim
        hidden = max(1, width // self.config.adapter_reduction)
        adapter = nn.Sequential(
            nn.Linear(width, hidden, bias=False),
            nn.ReLU(),
            nn.Linear(hidden, width, bias=False),
            nn.ReLU(),
        )
        self.extra["adapter"] = adapter.to(backbone.device)
        self.text = self.text_features(episode.class_names)  # [C, d]

    def image_features(self, images: Tensor) -> Tensor:
        """Return L2-normalised adapted image features: [B, 3, H, W] -> [B, d]."""
        with torch.no_grad():
            features = self.backbone.encode_image(images)  # [B, d]
        rho = self.config.adapter_ratio
        return unit_features(rho * self.extra["adapter"](features).float() + (1 - rho) * features.float())

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        image = self.image_features(batch.images)  # [B, d]
        logits = cosine_logits(image, self.text, self.scale)  # [B, C]
        return {"loss_ce": F.cross_entropy(logits, batch.labels)}
