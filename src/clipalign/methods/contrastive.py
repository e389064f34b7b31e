"""Methods whose loss compares every image of a batch with every text of it.

Such a loss cannot be split by rows. It is split in two instead: features, row by row, and a loss of all
features. The engine then computes features in pieces, gathers those of all processes, and gives each piece the
gradient of its features (Gao et al., 2021, "Scaling deep contrastive learning batch size under memory limited
setup"): the same gradient as that of the whole batch at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from .base import Method

if TYPE_CHECKING:
    from ..data.base import Batch

Features = Mapping[str, Tensor]


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
