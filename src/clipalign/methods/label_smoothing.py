"""Plain fine-tuning with uniformly smoothed labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor
from torch.nn import functional as F

from ..core.errors import UserError
from . import register
from .erm import Erm

if TYPE_CHECKING:
    from ..core.types import Batch


@dataclass(frozen=True)
class LabelSmoothingConfig:
    """Options of the targets."""

    epsilon: float = 0.1
    """Share of the target that is spread over all classes, the true one included (Szegedy et al.: 0.1)."""

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon <= 1:
            raise UserError(f"--epsilon must be in [0, 1], not {self.epsilon:g}")


@register("label-smoothing")
class LabelSmoothing(Erm):
    """L = mean_b [(1 - eps) (-ln p_y) + eps / C sum_c (-ln p_c)], p as in `erm`.

    AlignCLIP compares its semantic smoothing with this (its Figure 3d) without naming the eps of the
    baseline.
    """

    summary = "erm with uniform label smoothing"
    source = "Szegedy et al., Rethinking the Inception Architecture for Computer Vision, CVPR 2016"
    Config = LabelSmoothingConfig
    published: ClassVar[Mapping[str, Any]] = Erm.published

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        logits = (self.scale * self.image_features(batch.images) @ self.text.T).float()
        return {"loss_ce": F.cross_entropy(logits, batch.labels, label_smoothing=self.config.epsilon)}
