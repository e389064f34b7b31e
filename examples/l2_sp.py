"""L2-SP as a clipalign method in a package of its own: fine-tuning on a leash."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F

from clipalign import Method, UserError, register

if TYPE_CHECKING:
    from clipalign import Backbone
    from clipalign.core.types import Batch, Episode


@dataclass(frozen=True)
class L2SpConfig:
    """Each field becomes a flag of `clipalign train --method l2-sp`, with its docstring as help."""

    pull: float = 0.01
    """Weight of the squared distance to the pre-trained weights (published: 0.1 to 0.01)."""

    def __post_init__(self) -> None:
        if not self.pull >= 0:
            raise UserError(f"--pull must be at least 0, not {self.pull:g}")


@register("l2-sp")
class L2Sp(Method):
    """L = CE(s I Tᵀ, y) + pull / 2 |theta - theta_pre-trained|²."""

    summary = "erm that pays for every weight's way from where it started"
    source = "Li et al., Explicit Inductive Bias for Transfer Learning, ICML 2018"
    trains = "image tower"
    Config = L2SpConfig
    published = {"lr": 5e-6, "weight_decay": 0.0}  # noqa: RUF012 - options of the run, by name

    def setup(self, backbone: Backbone, episode: Episode, templates: Sequence[str]) -> None:
        super().setup(backbone, episode, templates)  # freezes everything
        self.train_image_tower()
        self.text = self.text_features(episode.class_names)
        self.start_weights = [p.detach().clone() for p in self.parameters()]

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        logits = self.scale * self.image_features(batch.images) @ self.text.T
        pairs = zip(self.parameters(), self.start_weights, strict=True)
        distance = sum((p - start).square().sum() for p, start in pairs)
        return {
            "loss_ce": F.cross_entropy(logits.float(), batch.labels),
            "loss_pull": self.config.pull / 2 * distance,
        }
