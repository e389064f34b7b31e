"""CoOp: learn the context of the class prompts and freeze everything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..backbone.text.context import STD, initial_context
from ..backbone.text.prompts import ClassPrompts, Position
from ..core.config import Options, facts
from ..core.errors import UnseenClasses
from ..core.search import NEW_PARAMETERS, SearchSpace
from ..losses import cosine_logits
from . import register
from .base import PREFIX
from .capabilities import LinearHead
from .shared.class_prompts import ClassPromptMethod
from .shared.heads import positions

if TYPE_CHECKING:
    from ..backbone import Backbone
    from ..core.types import Batch, Episode

NEW_CLASSES_INIT = "a photo of a"  # of CoOp in base-to-new experiments (CoCoOp, CVPR 2022)


@dataclass(frozen=True)
class CoOpConfig(Options):
    """Published defaults."""

    context_tokens: int | None = field(
        default=None, metadata=facts(unit="TOKENS", unset="16, or the phrase's")
    )
    """Learned vectors per prompt. By default the tokens of --context-init, or the published 16 without a phrase."""
    context_init: str | None = field(default=None, metadata=facts(unit="TEXT", unset="by test classes"))
    """Phrase that initialises the vectors. They start as its token embeddings; empty: normal(0, 0.02). By default as
    published: "a photo of a" if the run tests new classes, else empty; also empty with --context-tokens or
    --class-specific."""
    class_specific: bool = False
    """Separate vectors for each class. They cannot score new classes."""
    class_position: Position = "end"
    """Class name: end, middle or front. end: after the vectors (published); middle: after the first half of them;
    front: before them."""


@register("coop")
class CoOp(ClassPromptMethod[CoOpConfig]):
    """L = CE(s I T(V)ᵀ, y) with gradients to the context V only (equations 1 and 2).

    Prompts are start token, V_1 ... V_m, class name, full stop, end token. With a shared context in front, the text
    tower encodes the context once for all classes.
    """

    summary = "learned context vectors in front of the class name"
    source = "Zhou et al., Learning to Prompt for Vision-Language Models, IJCV 2022"
    trains = "context vectors"
    needs = ("text prompts",)
    Config = CoOpConfig
    search: ClassVar[SearchSpace] = NEW_PARAMETERS

    def setup(self, backbone: Backbone, episode: Episode, templates: Sequence[str]) -> None:
        super().setup(backbone, episode, templates)
        o = self.config
        self.context_init = self.chosen_init()
        start = initial_context(backbone, self.context_init, o.context_tokens, default=16)  # [m, W]
        if o.class_specific:
            start = start.expand(len(episode.class_names), -1, -1).clone()  # [C, m, W]
            if not self.context_init:
                start = STD * torch.randn_like(start)
        self.set_context(start)

    def chosen_init(self) -> str:
        """Return --context-init; by default "a photo of a" if a test set has classes that are not trained."""
        o = self.config
        if o.context_init is not None:
            return o.context_init
        trained = set(self.episode.train_classes)
        new = any(not trained.issuperset(test.classes) for test in self.episode.tests)
        return NEW_CLASSES_INIT if new and o.context_tokens is None and not o.class_specific else ""

    def set_context(self, vectors: Tensor) -> None:
        """Train these vectors, [m, W] or [C, m, W]."""
        self.context = nn.Parameter(vectors)  # V
        self.extra["prompts"] = nn.ParameterDict({"context": self.context})
        self.prompts = self.class_prompts(self.episode.class_names)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load as `Method.load_state_dict`; the number of vectors becomes the stored one.

        By default it depends on the test sets, which a stored run does not contain.
        """
        stored, context = state.get(f"{PREFIX}prompts.context"), self.context
        shared = (
            stored is not None and stored.dim() == context.dim() == 2 and stored.shape[1] == context.shape[1]
        )
        if (
            stored is not None
            and shared
            and self.config.context_tokens is None
            and len(stored) != len(context)
        ):
            self.set_context(torch.empty_like(stored, device=context.device))
        super().load_state_dict(state)

    def resolved(self) -> dict[str, object]:
        derived = {"context_init": self.context_init} if self.config.context_init is None else {}
        return {"context_tokens": self.context.shape[-2], **derived}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        image = self.image_features(batch.images)  # [B, d]
        text = self.prompt_features(self.prompts)  # [C, d]
        logits = cosine_logits(image, text, self.scale)  # [B, C]
        return {"loss_ce": F.cross_entropy(logits, batch.labels)}

    def class_prompts(self, class_names: Sequence[str]) -> ClassPrompts:
        return ClassPrompts(self.backbone, class_names, self.context.shape[-2], self.config.class_position)

    def prompt_features(self, prompts: ClassPrompts, context: Tensor | None = None) -> Tensor:
        """Return T(V), [C, d]; `context` selects the vectors of some classes, [C, m, W]."""
        context = self.context if context is None else context
        if context.dim() == 2 and prompts.position == "end":
            return prompts.encode(context.unsqueeze(0))[0]  # [1, m, W] -> [1, C, d] -> [C, d]
        return prompts.encode_classes(context)

    @torch.no_grad()
    def class_features(self, class_names: Sequence[str]) -> Tensor:
        """Return T(V) for any class list, [C, d], L2-normalised, without gradient.

        Raises:
            UnseenClasses: class-specific context, and a class that was not trained.
        """
        context: Tensor = self.context
        if self.config.class_specific:
            context = context[self.trained_classes(class_names)]  # [C, m, W]
        return self.prompt_features(self.class_prompts(class_names), context)

    def trained_classes(self, class_names: Sequence[str]) -> list[int]:
        """Return the position of each class among the training classes.

        Raises:
            UnseenClasses: a class was not trained.
        """
        rows = positions(class_names, self.episode.class_names)
        missing = [name for name, row in zip(class_names, rows, strict=True) if row is None]
        if missing:
            raise UnseenClasses(
                f'--class-specific learns a context for each training class; there is none for "{missing[0]}"'
                + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
            )
        return [row for row in rows if row is not None]

    def linear_head(self, class_names: Sequence[str], templates: Sequence[str]) -> LinearHead:
        text = self.class_features(class_names)  # [C, d]
        return LinearHead("prompts", tuple(class_names), (), text, None, float(self.scale), normalise=True)
