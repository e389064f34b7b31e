"""DomainBed's ERM: a linear head on the image tower, both trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Tensor
from torch.nn import functional as F

from . import register
from .heads import HeadMethod

if TYPE_CHECKING:
    from ..backbone import Backbone
    from ..data.base import Batch
    from ..protocols.base import Episode


@dataclass(frozen=True)
class ErmLinearHeadConfig:
    """Options of the head."""

    head: Literal["random", "zero-shot"] = "random"
    """random: PyTorch's default initialisation, as DomainBed. zero-shot: the class prompts' features times
    CLIP's scale, as WiSE-FT; training starts from zero-shot predictions."""
    unit_features: bool | None = None
    """Normalise features for the head. Default: not for a random one, as DomainBed's code with CLIP; for a
    zero-shot one yes, as WiSE-FT."""


@register("erm-linear-head")
class ErmLinearHead(HeadMethod):
    """L = mean_b CE(softmax(W f(x_b) + b), y_b) (Gulrajani and Lopez-Paz, ICLR 2021, `ERM`).

    Not `erm`, which keeps CLIP's class prompts as a frozen classifier: published "ERM, CLIP" numbers of the
    two kinds differ by up to 13 points, more than most methods gain. Classes outside of training cannot be
    scored.
    """

    summary = "DomainBed's ERM: image tower and a linear head, random or from the class prompts"
    source = "Gulrajani and Lopez-Paz, In Search of Lost Domain Generalization, ICLR 2021"
    trains = "image tower and linear head"
    Config = ErmLinearHeadConfig
    published: ClassVar[Mapping[str, Any]] = {
        "lr": 5e-5,
        "weight_decay": 0.0,
        "optimizer": "adam",
        "schedule": "constant",
        "steps": 5000,  # DomainBed counts 5001
        "batch_size": 96,  # 32 of each of three source domains
    }

    def setup(self, backbone: Backbone, episode: Episode, templates: Sequence[str]) -> None:
        super().setup(backbone, episode, templates)
        self.train_image_tower()
        self.add_head(self.config.head, self.config.unit_features)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        logits = self.logits(self.backbone.encode_image(batch.images))
        return {"loss_ce": F.cross_entropy(logits, batch.labels)}
