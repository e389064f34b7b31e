"""DomainBed's ERM: the image tower and a linear head, trained together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from . import register
from .shared.heads import HeadConfig, TrainedHeadMethod


@dataclass(frozen=True)
class ErmLinearHeadConfig(HeadConfig):
    """Options of the head."""

    head: Literal["random", "zero-shot"] = "random"
    """Initial head: random or zero-shot. random: PyTorch's default, as DomainBed; zero-shot: text features of the
    class prompts times the logit scale, as WiSE-FT."""


@register("erm-linear-head")
class ErmLinearHead(TrainedHeadMethod[ErmLinearHeadConfig]):
    """L = CE(W f + b, y) with image features f; see `HeadMethod.loss`.

    `erm` keeps CLIP's class prompts as a frozen classifier instead: published "ERM, CLIP" numbers of the two differ by
    up to 13 points, more than most methods gain. A linear head cannot score classes outside training.

    Source: Gulrajani and Lopez-Paz, 2021; `ERM` in DomainBed.
    """

    summary = "DomainBed's ERM: image tower and a linear head, random or from the class prompts"
    source = "Gulrajani and Lopez-Paz, In Search of Lost Domain Generalization, ICLR 2021"
    trains = "image tower and linear head"
    trains_image_tower = True
    Config = ErmLinearHeadConfig
