"""What a batch is, and what a data set has to offer: one table of rows, each with a class and a domain."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Stage = Literal["train", "validation", "test"]
Interpolation = Literal["bicubic", "bilinear"]


@dataclass(frozen=True)
class Batch:
    """Images with their labels, ready for a model.

    Attributes:
        images: [B, 3, H, W] float32, normalised with the backbone's mean and standard deviation.
        labels: [B] int64, positions in the episode's training label space.
        domains: [B] int64, indices into the source's `domain_names`.
        rows: [B] int64, rows of the source, so that a bad batch can be traced to its files.
        captions: one text per image, or None where the data have none.
    """

    images: Tensor
    labels: Tensor
    domains: Tensor
    rows: Tensor
    captions: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on `device`."""
        return replace(
            self,
            images=self.images.to(device, non_blocking=True),
            labels=self.labels.to(device),
            domains=self.domains.to(device),
            rows=self.rows.to(device),
        )


@dataclass(frozen=True)
class Preprocess:
    """What a backbone wants to see.

    Attributes:
        size: height and width in pixels.
        mean, std: per channel, of values in [0, 1].
        interpolation: "bicubic" (CLIP's own) or "bilinear" (as CLIPood and AlignCLIP released).
    """

    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Interpolation = "bicubic"

    def normalise(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] in [0, 1] -> the same shape, standardised per channel."""
        mean = images.new_tensor(self.mean).view(1, 3, 1, 1)
        std = images.new_tensor(self.std).view(1, 3, 1, 1)
        return (images - mean) / std

    def fit(self, images: Tensor) -> Tensor:
        """Pictures [B, 3, h, w] in [0, 1] -> [B, 3, H, W], resized where they have another size, standardised."""
        if tuple(images.shape[-2:]) != self.size:
            images = F.interpolate(
                images, size=self.size, mode=self.interpolation, align_corners=False, antialias=True
            ).clamp(0, 1)
        return self.normalise(images)


@runtime_checkable
class Source(Protocol):
    """A data set as one table of rows.

    A row is the unit of every split (a drawing, a photograph). What a model sees of a row is a view: in
    training a fresh one for each draw, at evaluation one of a fixed number, so that every model sees the
    same pixels.
    """

    name: str
    class_names: tuple[str, ...]
    domain_names: tuple[str, ...]
    templates: tuple[str, ...]
    labels: np.ndarray
    domains: np.ndarray

    def views(self, stage: Stage) -> int:
        """Number of fixed views per row at evaluation (1 for photographs)."""
        ...

    def images(
        self, rows: np.ndarray, stage: Stage, draws: np.ndarray, seed: int, preprocess: Preprocess
    ) -> Tensor:
        """Views of rows as a tensor [len(rows), 3, H, W], normalised.

        Args:
            rows: row numbers.
            stage: "train" augments; the others give the fixed view number `draws[i]` of row `rows[i]`.
            draws: in training any number that identifies the draw (the position in the whole run), so that
                a view depends on (seed, draw, row) alone, never on a rank or a worker.
            seed: seed of training views; ignored elsewhere.
            preprocess: size and statistics.
        """
        ...

    def fingerprint(self) -> str:
        """Hash of what the table holds."""
        ...
