"""A CLIP-like model seen from the outside: features of images and texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Backbone(nn.Module):
    """An open_clip model with its tokenizer and its preprocessing."""

    def __init__(self, model: nn.Module, tokenizer: Any, spec: str) -> None:
        super().__init__()
        self.model: Any = model
        self.tokenizer = tokenizer
        self.spec = spec
        size = model.visual.image_size
        self.image_size: tuple[int, int] = (size, size) if isinstance(size, int) else tuple(size)
        self.mean = tuple(model.visual.image_mean)
        self.std = tuple(model.visual.image_std)
        self.kind = "vit"

    @property
    def logit_scale(self) -> Tensor:
        """s = exp(log scale), a scalar."""
        return self.model.logit_scale.exp().reshape(())

    @property
    def temperature(self) -> Tensor:
        """1 / logit_scale."""
        return 1 / self.logit_scale

    def encode_image(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, d], not normalised."""
        return self.model.encode_image(images)

    def encode_text(self, texts: Sequence[str] | Tensor) -> Tensor:
        """Texts or tokens [C, n] -> [C, d], not normalised."""
        tokens = texts if isinstance(texts, Tensor) else self.tokenizer(list(texts))
        return self.model.encode_text(tokens.to(self.model.logit_scale.device))

    def image_parameters(self) -> list[nn.Parameter]:
        """Every parameter of the vision tower."""
        return list(self.model.visual.parameters())
