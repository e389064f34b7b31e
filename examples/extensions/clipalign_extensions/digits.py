"""A data set: the 1797 handwritten digits of scikit-learn, white on black and black on white."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from clipalign.core.types import Preprocess, Source, Stage
from clipalign.data.request import NamedSource, SourceRequest

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class Digits(Source):
    """Images of 8 x 8 pixels with two domains; training views are shifted by up to one pixel.

    Args:
        limit: number of digits to take; default: all.
    """

    name = "digits"
    class_names = NAMES
    domain_names = ("white-on-black", "black-on-white")
    templates = ('a photo of the digit "{}".',)

    def __init__(self, limit: int | None = None) -> None:
        digits = load_digits()
        white = torch.from_numpy(digits.images[:limit] / 16).float()  # [n, 8, 8] in [0, 1]
        labels = digits.target[:limit].astype(np.int64)  # [n]
        self.pixels = torch.cat([white, 1 - white])  # [N, 8, 8]
        self.labels = np.tile(labels, 2)  # [N]
        self.domains = np.repeat([0, 1], len(labels))  # [N]

    def images(
        self, rows: np.ndarray, stage: Stage, draws: np.ndarray, seed: int, preprocess: Preprocess
    ) -> Tensor:
        views = self.pixels[torch.from_numpy(rows)]  # [B, 8, 8]
        if stage == "train":
            for i, (row, draw) in enumerate(zip(rows, draws, strict=True)):
                # The generator depends on seed, draw and row only, so views do not depend on batches or workers.
                shift = np.random.default_rng([seed, draw, row]).integers(-1, 2, 2)
                views[i] = views[i].roll(tuple(shift.tolist()), dims=(0, 1))
        return preprocess.fit(views[:, None].expand(-1, 3, -1, -1))  # [B, 3, H, W]

    def fingerprint(self) -> str:
        return hashlib.sha256(self.pixels.numpy().tobytes() + self.labels.tobytes()).hexdigest()


def open_digits(request: SourceRequest) -> Digits:
    """Open the data set with the settings of --data-options."""
    return Digits(**request.settings)


DIGITS = NamedSource(
    summary="handwritten digits of scikit-learn, white on black and black on white",
    open=open_digits,
    title="Digits",
    licence="CC BY 4.0 (UCI Machine Learning Repository)",
    settings=("limit",),
)
