"""MaPLe: deep prompts in the text tower, and in the vision tower what linear maps make of them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..backbone.text.context import STD, deep_hooks, scaled_depth, split_context
from ..backbone.text.prompts import ClassPrompts, cosine_logits
from . import register
from .coop import TRAINER
from .shared.deep_prompts import DeepPromptMethod

if TYPE_CHECKING:
    from ..backbone import Backbone
    from ..core.types import Batch, Episode


@dataclass(frozen=True)
class MapleConfig:
    """Published defaults of base-to-new experiments; others took depth 3 and lr 0.0026."""

    context_tokens: int = 2
    """Learned vectors per block and tower."""
    context_init: str = "a photo of a"
    """Phrase of the prompt. The embeddings of its first tokens are the start of the text vectors of the first
    block, its other words stay; with fewer words than vectors the start is normal(0, 0.02)."""
    prompt_depth: int | None = None
    """Blocks, from the first, that get vectors. Default: three quarters of those of the shallower tower
    (published: 9 of 12)."""


@register("maple")
class Maple(DeepPromptMethod):
    """CE(s I Tᵀ) with text vectors P_0 ... P_{J-1} and vision vectors F_i(P_i), F_i linear.

    Text: start token, P_0, the rest of the phrase, name, full stop, end token; before block i the rows of
    P_0 are overwritten by P_i. Vision: F_0(P_0) is appended behind the patches after the positional
    embeddings and before the first LayerNorm; before block i its rows are overwritten by F_i(P_i). The deep
    F_i start as copies of one.
    """

    summary = "deep text prompts, coupled to vision prompts by linear maps"
    source = "Khattak et al., MaPLe: Multi-modal Prompt Learning, CVPR 2023"
    trains = "prompt vectors and couplings"
    Config = MapleConfig
    published: ClassVar[Mapping[str, Any]] = {
        # Few-shot training, 16 images of 50 classes: 5 epochs of 200 steps.
        **TRAINER,
        "lr": 3.5e-3,
        "warmup_steps": 1 / 5,
        "steps": 1000,
        "batch_size": 4,
    }

    def setup(self, backbone: Backbone, episode: Episode, templates: Sequence[str]) -> None:
        super().setup(backbone, episode, templates)
        o: MapleConfig = self.config
        blocks, width = backbone.text_shape
        depth = scaled_depth("--prompt-depth", o.prompt_depth, min(blocks, backbone.num_blocks))
        first, self.words = split_context(backbone, o.context_init, o.context_tokens)
        deep = STD * torch.randn(depth - 1, *first.shape, device=first.device)
        couplings = [nn.Linear(width, backbone.vision_width) for _ in range(min(depth, 2))]
        couplings += [copy.deepcopy(couplings[-1]) for _ in range(depth - len(couplings))]
        self.vectors = nn.Parameter(torch.cat([first.unsqueeze(0), deep]))  # P, [J, m, W]
        self.couplings = nn.ModuleList(couplings).to(backbone.device)
        self.extra["prompts"] = nn.ParameterDict({"text": self.vectors})
        self.extra["couplings"] = self.couplings
        self.prompts = self.class_prompts(episode.class_names)

    def resolved(self) -> dict[str, Any]:
        return {"prompt_depth": len(self.vectors)}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        with self.hooks():
            image, text = self.image_features(batch.images), self.prompt_features(self.prompts)
        return {"loss_ce": F.cross_entropy(cosine_logits(self.scale, image, text), batch.labels)}

    def hooks(self) -> AbstractContextManager[None]:
        """Both towers with their vectors."""
        coupled = [f(p) for f, p in zip(self.couplings, self.vectors, strict=True)]
        return self.backbone.hooks(**deep_hooks(self.vectors, coupled))

    def class_prompts(self, class_names: Sequence[str]) -> ClassPrompts:
        """The fixed part of the prompts."""
        return ClassPrompts(self.backbone, class_names, self.vectors.shape[1], words=self.words)

    def prompt_features(self, prompts: ClassPrompts) -> Tensor:
        """T, [C, d] unit rows; within `hooks`."""
        return prompts.encode(self.vectors[:1])[0]
