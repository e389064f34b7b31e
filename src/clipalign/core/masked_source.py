"""Data sources with exact masks of the objects in their images."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from .types import Source, Stage


@dataclass(frozen=True)
class MaskedImage:
    """One test image with pixel masks of its object.

    Attributes:
        image: [3, H, W] in [0, 1].
        label: class index.
        domain: domain index.
        alpha: [H, W], share of each pixel that ink covers.
        silhouette: [H, W], `alpha` with the holes of the drawing filled, comparable between styles.
    """

    image: Tensor
    label: int
    domain: int
    alpha: Tensor
    silhouette: Tensor


class MaskedSource(Source):
    """A `Source` with exact masks of the object in each view."""

    @abstractmethod
    def sample(self, row: int, stage: Stage = "test", draw: int = 0, seed: int = 0) -> MaskedImage:
        """Return the view that `images` gives for these arguments, before resizing and normalisation, with masks."""
