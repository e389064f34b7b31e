"""CLIP-Adapter: a small network that shifts the frozen image features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import UserError
from . import register
from .base import Method
from .coop import TRAINER

if TYPE_CHECKING:
    from ..backbone import Backbone
    from ..core.types import Batch, Episode


@dataclass(frozen=True)
class ClipAdapterConfig:
    """Options of the adapter."""

    adapter_ratio: float = 0.2
    """rho, share of the adapted feature (published: 0.2 on ImageNet, tuned elsewhere); 0 is zero-shot."""
    adapter_reduction: int = 4
    """The hidden layer has d / this many units."""

    def __post_init__(self) -> None:
        if not 0 <= self.adapter_ratio <= 1:
            raise UserError(f"--adapter-ratio must be in [0, 1], not {self.adapter_ratio:g}")
        if self.adapter_reduction < 1:
            raise UserError(f"--adapter-reduction must be at least 1, not {self.adapter_reduction}")


@register("clip-adapter")
class ClipAdapter(Method):
    """v' = rho A(v) + (1 - rho) v with A(v) = ReLU(W2 ReLU(W1 v)); z = s v'/|v'| Tᵀ; L = CE(z, y).

    v is the image feature as the tower gives it, W1 [d/4, d] and W2 [d, d/4] have no biases. The class
    prompts stay the classifier, so any class list can be scored.
    """

    summary = "a two-layer adapter on frozen image features"
    source = "Gao et al., CLIP-Adapter: Better Vision-Language Models with Feature Adapters, IJCV 2024"
    trains = "adapter"
    Config = ClipAdapterConfig
    published: ClassVar[Mapping[str, Any]] = {
        **TRAINER,  # the released file plugs into CoOp's trainer
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
        self.text = self.text_features(episode.class_names)

    def image_features(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> unit rows [B, d], adapted."""
        with torch.no_grad():
            feature = self.backbone.encode_image(images)
        rho = self.config.adapter_ratio
        return F.normalize(rho * self.extra["adapter"](feature) + (1 - rho) * feature, dim=-1)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        logits = self.scale * self.image_features(batch.images) @ self.text.T
        return {"loss_ce": F.cross_entropy(logits.float(), batch.labels)}
