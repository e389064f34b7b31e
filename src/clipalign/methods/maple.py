"""MaPLe: deep prompts in the text tower, coupled by linear maps to deep prompts in the vision tower."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..backbone.text.context import STD, deep_hooks, scaled_depth, split_context
from ..backbone.text.prompts import ClassPrompts
from ..core.config import Options, facts
from ..core.search import NEW_PARAMETERS, SearchSpace
from ..losses import cosine_logits
from . import register
from .shared.class_prompts import ClassPromptMethod

if TYPE_CHECKING:
    from ..backbone import Backbone
    from ..core.types import Batch, Episode


@dataclass(frozen=True)
class MapleConfig(Options):
    """Published defaults of base-to-new experiments; cross-data-set ones use depth 3 and lr 0.0026."""

    context_tokens: int = field(default=2, metadata=facts(unit="TOKENS", reason="MaPLe"))
    """Learned vectors per block and tower."""
    context_init: str = field(default="a photo of a", metadata=facts(unit="TEXT"))
    """Phrase of the prompt. Its first tokens initialise the text vectors of the first block, its other words stay;
    with fewer tokens than vectors, the vectors start as normal(0, 0.02)."""
    prompt_depth: int | None = field(default=None, metadata=facts(unit="BLOCKS", unset="3/4"))
    """Blocks, from the first, with vectors. By default three quarters of the shallower tower, the published 9 of
    12."""


@register("maple")
class Maple(ClassPromptMethod[MapleConfig]):
    """L = CE(s I Tᵀ, y) with text vectors P_0 ... P_{J-1} and vision vectors F_i(P_i), F_i linear.

    Text: start token, P_0, the rest of the phrase, class name, full stop, end token; P_i replaces the rows of P_0
    before block i. Vision: F_0(P_0) is appended to the patches after the positional embeddings and before the first
    layer norm; F_i(P_i) replaces it before block i. The F_i of i > 0 start as copies of one map.
    """

    summary = "deep text prompts, coupled to vision prompts by linear maps"
    source = "Khattak et al., MaPLe: Multi-modal Prompt Learning, CVPR 2023"
    trains = "prompt vectors and couplings"
    needs = ("text prompts", "image prompts")
    Config = MapleConfig
    search: ClassVar[SearchSpace] = NEW_PARAMETERS

    def setup(self, backbone: Backbone, episode: Episode, templates: Sequence[str]) -> None:
        super().setup(backbone, episode, templates)
        o = self.config
        blocks, width = backbone.text_shape
        depth = scaled_depth("--prompt-depth", o.prompt_depth, min(blocks, backbone.num_blocks))
        first, self.words = split_context(
            backbone, o.context_init, o.context_tokens
        )  # [m, W], [r, W] or None
        deep = STD * torch.randn(depth - 1, *first.shape, device=first.device)  # [J - 1, m, W]
        couplings = [nn.Linear(width, backbone.vision_width) for _ in range(min(depth, 2))]
        couplings += [copy.deepcopy(couplings[-1]) for _ in range(depth - len(couplings))]
        self.vectors = nn.Parameter(torch.cat([first.unsqueeze(0), deep]))  # P, [J, m, W]
        self.couplings = nn.ModuleList(couplings).to(backbone.device)
        self.extra["prompts"] = nn.ParameterDict({"text": self.vectors})
        self.extra["couplings"] = self.couplings
        self.prompts = self.class_prompts(episode.class_names)

    def resolved(self) -> dict[str, object]:
        return {"prompt_depth": len(self.vectors)}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        with self.hooks():
            image = self.image_features(batch.images)  # [B, d]
            text = self.prompt_features(self.prompts)  # [C, d]
        logits = cosine_logits(image, text, self.scale)  # [B, C]
        return {"loss_ce": F.cross_entropy(logits, batch.labels)}

    def hooks(self) -> AbstractContextManager[None]:
        coupled = [f(p) for f, p in zip(self.couplings, self.vectors, strict=True)]  # J x [m, vision width]
        return self.backbone.hooks(**deep_hooks(self.vectors, coupled))

    def class_prompts(self, class_names: Sequence[str]) -> ClassPrompts:
        return ClassPrompts(self.backbone, class_names, self.vectors.shape[1], words=self.words)

    def prompt_features(self, prompts: ClassPrompts) -> Tensor:
        return prompts.encode(self.vectors[:1])[0]  # [1, m, W] -> [1, C, d] -> [C, d]
