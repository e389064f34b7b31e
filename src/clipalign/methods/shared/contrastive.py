"""Methods whose loss compares every image of a batch with every text.

Such a loss cannot be split by rows, but its gradient can (Gao et al., Scaling Deep Contrastive Learning Batch Size
under Memory Limited Setup, 2021). The method separates features, computed row by row, from a loss of all features.
The engine computes features in micro-batches, gathers them from all processes, and backpropagates the gradient of
each feature: the same gradient as that of the undivided batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from ..base import ConfigT, Method

if TYPE_CHECKING:
    from ...backbone import Backbone
    from ...core.types import Batch

Features = Mapping[str, Tensor]
MAX_SCALE = 100  # CLIP clips its logit scale here (Radford et al., 2021, section 2.5)


class ContrastiveMethod(Method[ConfigT]):
    """A method whose loss is a function of the features of the whole batch.

    Draw random numbers in `features`, never in `loss_from_features`, which every process runs independently.
    """

    mean_over_rows: ClassVar[bool] = False

    def features(self, batch: Batch) -> dict[str, Tensor]:
        """Return everything the loss needs from B rows, as tensors [B, ...]; integer ones carry no gradient."""
        raise NotImplementedError

    def loss_from_features(self, local: Features, gathered: Features, first: int = 0) -> dict[str, Tensor]:
        """Return scalars by name, each a mean over the local rows.

        Args:
            local: features of this process's b rows.
            gathered: features of all N rows of the batch. `local` holds views of its rows first ... first + b - 1,
                so the gradient with respect to `gathered` is complete.
            first: position of the first local row in the batch.
        """
        raise NotImplementedError

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        features = self.features(batch)
        return self.loss_from_features(features, features)


def all_rows(local: Features, gathered: Features) -> Features:
    """Return `gathered`, or {} if it holds only the local rows.

    The losses' `all_...` arguments are then None, and one matrix of similarities serves both directions.
    """
    name = next(iter(local))
    return gathered if len(gathered[name]) > len(local[name]) else {}


def scale_ceiling(backbone: Backbone) -> float:
    """Return the maximum of the log logit scale in training: ln 100, or the initial value if that is larger."""
    return max(math.log(MAX_SCALE), float(backbone.model.logit_scale.detach().max()))


@torch.no_grad()
def clip_scale(backbone: Backbone, ceiling: float) -> None:
    """Clip the log logit scale at `ceiling`, as CLIP's training does after each step."""
    backbone.model.logit_scale.clamp_(max=ceiling)
