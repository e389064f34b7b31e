"""CoOp: the words around the class name are learned, everything else stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..backbone.text.context import STD, initial_context
from ..backbone.text.features import clean_class_names
from ..backbone.text.prompts import ClassPrompts, Position, cosine_logits
from ..core.errors import UnseenClasses
from . import register
from .base import Classifier, Method

if TYPE_CHECKING:
    from ..backbone import Backbone
    from ..core.types import Batch, Episode


# CoOp's training, which the prompt learners and adapters after it took over; each says how many epochs it has. The
# first epoch goes at the warm-up rate. The published cosine falls once per epoch, this one with each step.
TRAINER: Mapping[str, Any] = {
    "lr": 2e-3,
    "weight_decay": 5e-4,
    "optimizer": "sgd",
    "momentum": 0.9,
    "schedule": "cosine",
    "warmup_lr": 1e-5,
}


@dataclass(frozen=True)
class ContextConfig:
    """Learned vectors in front of the class name."""

    context_tokens: int | None = None
    """Learned vectors per prompt. Default: the tokens of --context-init; without a phrase 16 of coop, 4 of
    cocoop."""
    context_init: str = ""
    """Phrase whose token embeddings are the start; "" for normal(0, 0.02)."""


@dataclass(frozen=True)
class CoOpConfig(ContextConfig):
    """Published defaults; base-to-new experiments take --context-init "a photo of a" (4 vectors)."""

    class_specific: bool = False
    """Vectors of its own for each class. They say nothing of other classes: test sets with new names get no
    accuracy."""
    class_position: Position = "end"
    """Where the class name stands: behind the vectors, before them, or behind the first half."""


@register("coop")
class CoOp(Method):
    """L = mean_b CE(softmax(s I_b T(V)ᵀ), y_b), gradients to the context V alone (equations 1 and 2).

    Prompts are start token, V_1 ... V_m, name, full stop, end token. The context is shared by all classes, so
    with the name at its end it runs through the text tower once, whatever the number of classes.
    """

    summary = "learned context vectors in front of the class name"
    source = "Zhou et al., Learning to Prompt for Vision-Language Models, IJCV 2022"
    trains = "context vectors"
    Config = CoOpConfig
    uses_templates = False
    published: ClassVar[Mapping[str, Any]] = {
        # Few-shot training, 16 images of 50 classes: 200 epochs of 25 steps.
        **TRAINER,
        "warmup_steps": 1 / 200,
        "steps": 5000,
        "batch_size": 32,
    }

    def setup(self, backbone: Backbone, episode: Episode, templates: Sequence[str]) -> None:
        super().setup(backbone, episode, templates)
        o: CoOpConfig = self.config
        start = initial_context(backbone, o.context_init, o.context_tokens, default=16)
        if o.class_specific:
            start = start.expand(len(episode.class_names), -1, -1).clone()
            if not o.context_init:
                start = STD * torch.randn_like(start)
        self.context = nn.Parameter(start)  # V, [m, W] or [C, m, W]
        self.extra["prompts"] = nn.ParameterDict({"context": self.context})
        self.prompts = self.class_prompts(episode.class_names)

    def resolved(self) -> dict[str, Any]:
        return {"context_tokens": self.context.shape[-2]}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        logits = cosine_logits(
            self.scale, self.image_features(batch.images), self.prompt_features(self.prompts, self.context)
        )
        return {"loss_ce": F.cross_entropy(logits, batch.labels)}

    def classifier(self, class_names: Sequence[str], templates: Sequence[str] | None = None) -> Classifier:
        """As `Method.classifier`; templates play no part.

        Raises:
            UnseenClasses: class-specific context, and a class that was not trained.
        """
        text = self.class_features(class_names)
        return lambda images: cosine_logits(self.scale, self.image_features(images), text)

    def spoken(self, texts: Sequence[str], images: Tensor) -> Tensor:
        return self.class_features(texts)

    @torch.no_grad()
    def class_features(self, class_names: Sequence[str]) -> Tensor:
        """T(V) of any classes, [C, d] unit rows.

        Raises:
            UnseenClasses: as `classifier`.
        """
        context: Tensor = self.context
        if self.config.class_specific:
            context = context[self.trained_rows(class_names)]
        return self.prompt_features(self.class_prompts(class_names), context)

    def class_prompts(self, class_names: Sequence[str]) -> ClassPrompts:
        """The fixed part of the prompts."""
        return ClassPrompts(self.backbone, class_names, self.context.shape[-2], self.config.class_position)

    def prompt_features(self, prompts: ClassPrompts, context: Tensor) -> Tensor:
        """T(V), [C, d] unit rows."""
        if context.dim() == 2 and prompts.position == "end":
            return prompts.encode(context.unsqueeze(0))[0]
        return prompts.encode_classes(context)

    def trained_rows(self, class_names: Sequence[str]) -> list[int]:
        """Where the training classes hold each name."""
        trained = {name.lower(): i for i, name in enumerate(clean_class_names(self.episode.class_names))}
        names = clean_class_names(class_names)
        missing = [name for name in names if name.lower() not in trained]
        if missing:
            raise UnseenClasses(
                f'--class-specific learns a context for each training class; there is none for "{missing[0]}"'
                + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
            )
        return [trained[name.lower()] for name in names]
