"""DomainBed's ERM: a linear head on the image tower, both trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from . import register
from .shared.heads import DOMAINBED, TrainedHeadMethod


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
class ErmLinearHead(TrainedHeadMethod):
    """L = mean_b CE(softmax(W f(x_b) + b), y_b) (Gulrajani and Lopez-Paz, ICLR 2021, `ERM`).

    Not `erm`, which keeps CLIP's class prompts as a frozen classifier: published "ERM, CLIP" numbers of the
    two kinds differ by up to 13 points, more than most methods gain. Classes outside of training cannot be
    scored.
    """

    summary = "DomainBed's ERM: image tower and a linear head, random or from the class prompts"
    source = "Gulrajani and Lopez-Paz, In Search of Lost Domain Generalization, ICLR 2021"
    trains = "image tower and linear head"
    Config = ErmLinearHeadConfig
    published: ClassVar[Mapping[str, Any]] = DOMAINBED
