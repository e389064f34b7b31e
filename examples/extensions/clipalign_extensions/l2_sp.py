"""L2-SP as a third-party clipalign method: fine-tuning with an L2 penalty towards the pre-trained weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F

from clipalign import Method, UserError, register
from clipalign.losses import cosine_logits

if TYPE_CHECKING:
    from clipalign import Backbone
    from clipalign.core.types import Batch, Episode


@dataclass(frozen=True)
class L2SpConfig:
    """Options of `clipalign train --method l2-sp`; field docstrings are the help texts."""

    pull: float = 0.01
    """Weight of the squared distance to the pre-trained weights (published: 0.1 to 0.01)."""

    def __post_init__(self) -> None:
        if not self.pull >= 0:
            raise UserError(f"--pull must be at least 0, not {self.pull:g}")


@register("l2-sp")
class L2Sp(Method[L2SpConfig]):
    """L = CE(s I Tᵀ, y) + pull / 2 ‖theta - theta_pretrained‖² (Li et al., 2018, equation 2)."""

    summary = "erm with an L2 penalty towards the pre-trained weights"
    source = "Li et al., Explicit Inductive Bias for Transfer Learning, ICML 2018"
    trains = "image tower"
    trains_image_tower = True
    Config = L2SpConfig
    published = {"lr": 5e-6, "weight_decay": 0.0}  # noqa: RUF012 - training options by name

    def setup(self, backbone: Backbone, episode: Episode, templates: Sequence[str]) -> None:
        super().setup(backbone, episode, templates)  # freezes the backbone
        self.train_image_tower()
        self.text = self.text_features(episode.class_names)  # [C, D], L2-normalised
        self.start_weights = [p.detach().clone() for p in self.parameters()]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        logits = cosine_logits(self.image_features(batch.images), self.text, self.scale)  # [B, C]
        pairs = zip(self.parameters(), self.start_weights, strict=True)
        distance = sum((p - start).square().sum() for p, start in pairs)
        return {
            "loss_ce": F.cross_entropy(logits, batch.labels),
            "loss_pull": self.config.pull / 2 * distance,
        }
