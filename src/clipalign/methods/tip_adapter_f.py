"""Tip-Adapter-F: Tip-Adapter with fine-tuned cache keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.search import NEW_PARAMETERS, SearchSpace
from . import register
from .base import ParamGroup, Validation
from .tip_adapter import TipAdapter

if TYPE_CHECKING:
    from ..backbone import Backbone
    from ..core.types import Batch, Episode


@register("tip-adapter-f")
class TipAdapterF(TipAdapter):
    """L = CE(z, y) with z as in `tip-adapter` at the start values of alpha and beta; the keys are trained.

    The released code keeps the epoch of the best test accuracy; here the last step counts, and alpha and beta are then
    chosen on source validation.
    """

    summary = "tip-adapter with trained keys"
    trains = "cache keys"
    iterates = True
    search: ClassVar[SearchSpace] = NEW_PARAMETERS

    def setup(self, backbone: Backbone, episode: Episode, templates: Sequence[str]) -> None:
        super().setup(backbone, episode, templates)
        self.cache.keys.requires_grad_(True)

    def param_groups(self) -> list[ParamGroup]:
        return [{"params": [self.cache.keys], "eps": 1e-4}]

    def start(self, validation: Validation) -> None:
        """Fill the cache."""
        self.fill(validation)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        with torch.no_grad():
            image = self.image_features(batch.images)  # [B, d]
        columns = torch.arange(len(self.text), device=image.device)
        with torch.autocast(image.device.type, enabled=False):
            logits = self.logits(image.float(), self.text, columns)  # [B, C]
        return {"loss_ce": F.cross_entropy(logits, batch.labels)}

    def finish(self, validation: Validation) -> dict[str, object]:
        """Choose alpha and beta."""
        return self.search_constants(validation)
