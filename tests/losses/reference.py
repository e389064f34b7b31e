"""Scalar reference implementations of AlignCLIP's equations, and inputs to compare on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

B, M, C, D = 3, 5, 4, 6


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Return standard normal numbers in float64."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def distribution(*shape: int, seed: int = 0) -> Tensor:
    """Return random distributions over the last axis, in float64."""
    return draw(*shape, seed=seed).softmax(dim=-1)


PATCHES, GUIDE, TEXT, IMAGE = draw(B, M, D), draw(B, M, D, seed=1), draw(C, D, seed=2), draw(B, D, seed=3)
LABELS = torch.tensor([2, 0, 2])


def cosine(a: Tensor, b: Tensor) -> float:
    """Return the cosine between two vectors, from sums of scalars."""
    dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(float(x) ** 2 for x in a) * sum(float(y) ** 2 for y in b))


def softmax(values: list[float]) -> list[float]:
    """Return exp(v) / sum of exp."""
    total = sum(math.exp(v) for v in values)
    return [math.exp(v) / total for v in values]


def equation_4(patches: Tensor, text: Tensor, temperature: float) -> list[float]:
    """Return G of one image [M, d] and one class text [d]."""
    return softmax([cosine(patch, text) / temperature for patch in patches])


def divergence(p: list[float], q: list[float]) -> float:
    """Return KL(p || q)."""
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
