"""What methods with vectors between the blocks of both towers share: how they predict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ...backbone.text.prompts import ClassPrompts, cosine_logits
from ..base import Classifier, Method


class DeepPromptMethod(Method):
    """Images and class prompts are encoded with the vectors in place, which `hooks` puts there."""

    towers: ClassVar[tuple[str, ...]] = ("vit",)
    uses_templates: ClassVar[bool] = False

    def classifier(self, class_names: Sequence[str], templates: Sequence[str] | None = None) -> Classifier:
        text = self.class_features(class_names)

        def logits(images: Tensor) -> Tensor:
            with self.hooks():
                return cosine_logits(self.scale, self.image_features(images), text)

        return logits

    def spoken(self, texts: Sequence[str], images: Tensor) -> Tensor:
        return self.class_features(texts)

    @torch.no_grad()
    def class_features(self, class_names: Sequence[str]) -> Tensor:
        """T of any classes, [C, d] unit rows."""
        with self.hooks():
            return self.prompt_features(self.class_prompts(class_names))

    def class_prompts(self, class_names: Sequence[str]) -> ClassPrompts:
        """The fixed part of the prompts."""
        raise NotImplementedError

    def prompt_features(self, prompts: ClassPrompts) -> Tensor:
        """T, [C, d] unit rows; within `hooks`."""
        raise NotImplementedError
