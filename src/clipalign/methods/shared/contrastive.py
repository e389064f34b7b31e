"""Methods whose loss compares every image of a batch with every text of it.

Such a loss cannot be split by rows. It is split in two instead: features, row by row, and a loss of all
features. The engine then computes features in pieces, gathers those of all processes, and gives each piece the
gradient of its features (Gao et al., 2021, "Scaling deep contrastive learning batch size under memory limited
setup"): the same gradient as that of the whole batch at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from ..base import Method

if TYPE_CHECKING:
    from ...backbone import Backbone
    from ...core.types import Batch

Features = Mapping[str, Tensor]
CLIP_CEILING = 100  # where CLIP clips its logit scale


class ContrastiveMethod(Method):
    """A method whose loss is a function of the whole batch's features.

    Randomness belongs into `features` (torch's global generator, as in every method) or into the data, never
    into `loss_from_features`, which each process runs on its own.
    """

    mean_over_rows: ClassVar[bool] = False

    def features(self, batch: Batch) -> dict[str, Tensor]:
        """What the loss needs of some rows: tensors [B, ...] by name; integers carry no gradient."""
        raise NotImplementedError

    def loss_from_features(self, local: Features, everyone: Features, first: int = 0) -> dict[str, Tensor]:
        """Terms by name, each a mean over the rows of `local`, against `everyone`.

        Args:
            local: features of this process's b rows.
            everyone: features of the whole batch, in the order of the batch. `local` are views of its rows
                first ... first + b - 1, so that the gradient with respect to `everyone` is all there is.
            first: see above.
        """
        raise NotImplementedError

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        features = self.features(batch)
        return self.loss_from_features(features, features)


def beyond(local: Features, everyone: Features) -> Features:
    """`everyone` as the losses' `all_...` arguments want it: empty where the local rows are all there are.

    One matrix of similarities then serves both directions.
    """
    name = next(iter(local))
    return everyone if len(everyone[name]) > len(local[name]) else {}


def scale_ceiling(backbone: Backbone) -> float:
    """The largest logarithm that training may give CLIP's logit scale: that of 100, or of what it starts from."""
    return max(math.log(CLIP_CEILING), float(backbone.model.logit_scale.detach().max()))


def clip_scale(backbone: Backbone, ceiling: float) -> None:
    """Hold the logit scale at `scale_ceiling`, as CLIP's own training does after each step."""
    with torch.no_grad():
        backbone.model.logit_scale.clamp_(max=ceiling)
