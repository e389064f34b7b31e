"""CLIP-Adapter: a bottleneck network on the frozen image features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.config import at_least
from ..core.errors import UserError
from ..losses import cosine_logits
from . import register
from .base import Method, RunOptions
from .shared.published import COOP

if TYPE_CHECKING:
    from ..backbone import Backbone
    from ..core.types import Batch, Episode


@dataclass(frozen=True)
class ClipAdapterConfig:
    """Options of the adapter."""

    adapter_ratio: float = 0.2
    """Share rho of the adapted feature; 0 is zero-shot (published: 0.2 on ImageNet, tuned elsewhere)."""
    adapter_reduction: int = 4
    """Width of the features over that of the hidden layer (published: 4)."""

    def __post_init__(self) -> None:
        if not 0 <= self.adapter_ratio <= 1:
            raise UserError(f"--adapter-ratio must be in [0, 1], not {self.adapter_ratio:g}")
        at_least(self, 1, "adapter_reduction")


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
    published: ClassVar[RunOptions] = {
        **COOP,  # the released code plugs into CoOp's trainer
        "warmup_steps": 1 / 200,
        "batch_size": 32,
    }

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
        return F.normalize(rho * self.extra["adapter"](features) + (1 - rho) * features, dim=-1)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        image = self.image_features(batch.images)  # [B, d]
        logits = cosine_logits(image, self.text, self.scale)  # [B, C]
        return {"loss_ce": F.cross_entropy(logits, batch.labels)}
