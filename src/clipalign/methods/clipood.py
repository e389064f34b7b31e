"""CLIPood: margin metric softmax, and a beta moving average of the weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor
from torch.nn import functional as F

from ..core.config import Options, facts
from ..core.search import BETAS, SearchSpace, Uniform
from ..losses import margin_logits
from . import register
from .erm import Erm

if TYPE_CHECKING:
    from ..core.types import Batch


@dataclass(frozen=True)
class ClipoodConfig(Options):
    """Options of the loss; the average has --average and --bma-beta."""

    margin: float = field(default=0.3, metadata=facts(unit="COSINE", at_least=0, reason="CLIPood"))
    """Margin lambda, in cosines; 0: none. CLIPood uses 0.1 in the wild."""


@register("clipood")
class Clipood(Erm[ClipoodConfig]):
    """L = CE(s <I - lambda T_y, T_k>, y) over classes k: the margin metric softmax.

    The shifted image feature is not normalised again. Relative to the true class, class k gains
    s lambda (1 - cos(T_y, T_k)), so less similar classes need a larger margin. Predictions use no margin, and the beta
    moving average of the weights.
    """

    summary = "margin metric softmax + beta moving average"
    source = "Shu et al., CLIPood: Generalizing CLIP to Out-of-Distributions, ICML 2023"
    Config = ClipoodConfig
    average = "bma"
    search: ClassVar[SearchSpace] = {"margin": Uniform(0, 0.3), "bma_beta": BETAS}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        image = self.backbone.encode_image(batch.images)  # [B, d]
        logits = margin_logits(image, self.text, batch.labels, self.scale, self.config.margin)  # [B, C]
        return {"loss_mms": F.cross_entropy(logits, batch.labels)}
