"""Plain fine-tuning with uniform label smoothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor
from torch.nn import functional as F

from ..core.config import Options, facts
from ..core.search import SearchSpace, Uniform
from ..losses import cosine_logits
from . import register
from .erm import Erm

if TYPE_CHECKING:
    from ..core.types import Batch


@dataclass(frozen=True)
class LabelSmoothingConfig(Options):
    """Options of the targets."""

    epsilon: float = field(
        default=0.1, metadata=facts(unit="SHARE", at_least=0, at_most=1, reason="Szegedy et al., 2016")
    )
    """Target spread over all classes. The true class is included."""


@register("label-smoothing")
class LabelSmoothing(Erm[LabelSmoothingConfig]):
    """L = CE(s I Tᵀ, q) with q = (1 - epsilon) one-hot + epsilon / C, otherwise as `erm`.

    The baseline of AlignCLIP's semantic smoothing (its Figure 3d), which does not name its epsilon.
    """

    summary = "erm with uniform label smoothing"
    source = "Szegedy et al., Rethinking the Inception Architecture for Computer Vision, CVPR 2016"
    Config = LabelSmoothingConfig
    search: ClassVar[SearchSpace] = {"epsilon": Uniform(0, 0.3)}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        image = self.image_features(batch.images)  # [B, d]
        logits = cosine_logits(image, self.text, self.scale)  # [B, C]
        return {"loss_ce": F.cross_entropy(logits, batch.labels, label_smoothing=self.config.epsilon)}
