"""CLIPood: a margin that grows with the distance of classes, and a beta moving average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor
from torch.nn import functional as F

from ..core.errors import UserError
from ..losses import margin_logits, published_margin
from . import register
from .base import Method
from .erm import Erm

if TYPE_CHECKING:
    from ..backbone import Backbone
    from ..core.types import Batch, Episode


@dataclass(frozen=True)
class ClipoodConfig:
    """Options of the loss; those of the average are --bma-beta and --average."""

    margin: float | None = None
    """lambda, in cosines. Default: 30 / s, at which the true class loses 30 logits, but at most 1, where its
    whole text feature is taken off; that is the published 0.3 at CLIP's s = 100 (0.1 in the wild). 0 turns it
    off."""

    def __post_init__(self) -> None:
        if self.margin is not None and not self.margin >= 0:
            raise UserError(f"--margin must be at least 0, not {self.margin:g}")


@register("clipood")
class Clipood(Method):
    """L = mean_b CE(softmax(s <I_b - lambda T_y, T_k>), y_b): equation of the margin metric softmax.

    The shifted image feature is not normalised again. Relative to the true class, class k gains
    s lambda (1 - cos(T_y, T_k)): the less alike two classes are, the further apart they must be. Predictions
    use no margin, and the beta moving average of the weights.
    """

    summary = "margin that grows with the distance of classes + beta moving average"
    source = "Shu et al., CLIPood: Generalizing CLIP to Out-of-Distributions, ICML 2023"
    trains = "image tower"
    Config = ClipoodConfig
    average = "bma"
    published: ClassVar[Mapping[str, Any]] = {**Erm.published, "bma_beta": 0.5}

    def setup(self, backbone: Backbone, episode: Episode, templates: Sequence[str]) -> None:
        super().setup(backbone, episode, templates)
        self.train_image_tower()
        self.text = self.text_features(episode.class_names)
        margin = self.config.margin
        self.margin: float = published_margin(float(self.scale)) if margin is None else margin

    def resolved(self) -> dict[str, Any]:
        return {"margin": self.margin}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        image = self.backbone.encode_image(batch.images)
        logits = margin_logits(image, self.text, batch.labels, self.scale, self.margin)
        return {"loss_mms": F.cross_entropy(logits, batch.labels)}
