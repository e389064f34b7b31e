"""Methods that learn prompts and encode each class once, independently of the image."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar

import torch
from torch import Tensor

from ...backbone.text.prompts import ClassPrompts
from ...losses import cosine_logits
from ..base import Classifier, ConfigT, Method


class ClassPromptMethod(Method[ConfigT]):
    """A method with learned prompts: image features against the text features of the class prompts."""

    uses_templates: ClassVar[bool] = False

    def class_prompts(self, class_names: Sequence[str]) -> ClassPrompts:
        """Return the fixed part of the prompts of C classes."""
        raise NotImplementedError

    def prompt_features(self, prompts: ClassPrompts) -> Tensor:
        """Return T, the L2-normalised text features [C, d] of prompts; call it within `hooks`."""
        raise NotImplementedError

    def hooks(self) -> AbstractContextManager[None]:
        """Return a context in which the towers run with their learned vectors; the base class inserts none."""
        return nullcontext()

    @torch.no_grad()
    def class_features(self, class_names: Sequence[str]) -> Tensor:
        """Return T for any class list, [C, d], L2-normalised, without gradient."""
        with self.hooks():
            return self.prompt_features(self.class_prompts(class_names))

    def classifier(self, class_names: Sequence[str], templates: Sequence[str] | None = None) -> Classifier:
        text = self.class_features(class_names)  # [C, d]

        def logits(images: Tensor) -> Tensor:
            with self.hooks():
                image = self.image_features(images)  # [B, d]
            return cosine_logits(image, text, self.scale)  # [B, C]

        return logits

    def explain_text_features(self, texts: Sequence[str], images: Tensor) -> Tensor:
        return self.class_features(texts)
