"""PromptSRC: deep prompts in both towers, regularised towards the frozen features."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..backbone.text.context import STD, check_count, deep_hooks, scaled_depth, split_context
from ..backbone.text.features import fill_templates
from ..backbone.text.prompts import ClassPrompts
from ..core.config import Options, facts
from ..core.search import NEW_PARAMETERS, Choice, LogUniform, SearchSpace
from ..losses import cosine_logits
from . import register
from .shared.class_prompts import ClassPromptMethod

if TYPE_CHECKING:
    from ..backbone import Backbone
    from ..core.types import Batch, Episode

# Sixty templates for the frozen text features ("textual diversity").
MEDIA = ("photo", "picture", "drawing", "sketch", "painting", "cartoon", "rendering", "sculpture")
VIEWS = (
    "close-up",
    "blurry",
    "bright",
    "dark",
    "cropped",
    "small",
    "large",
    "plain",
    "strange",
    "good",
    "bad",
)
TEMPLATES = (
    *(f"a {medium} of {article} {{}}." for medium in MEDIA for article in ("a", "the", "one", "my")),
    *(f"a {view} photo of {article} {{}}." for view in VIEWS for article in ("a", "the")),
    "a photo of many {}.",
    "a drawing of many {}.",
    "a {}.",
    "the {}.",
    "one {}.",
    "there is a {} in the scene.",
)


@dataclass(frozen=True)
class PromptSrcConfig(Options):
    """Published defaults of base-to-new experiments; cross-data-set ones use depth 3 and another average
    (--gaussian-mean 0.3 --gaussian-std 0.5)."""

    context_tokens: int = field(default=4, metadata=facts(unit="TOKENS", reason="PromptSRC"))
    """Learned vectors per text block."""
    context_init: str = field(default="a photo of a", metadata=facts(unit="TEXT"))
    """Phrase of the prompt. Its first tokens initialise the text vectors of the first block, its other words stay;
    with fewer tokens than vectors, the vectors start as normal(0, 0.02)."""
    vision_tokens: int = field(default=4, metadata=facts(unit="TOKENS", reason="PromptSRC"))
    """Learned vectors per vision block."""
    text_depth: int | None = field(default=None, metadata=facts(unit="BLOCKS", unset="3/4"))
    """Text blocks, from the first, with vectors. By default three quarters, the published 9 of 12."""
    vision_depth: int | None = field(default=None, metadata=facts(unit="BLOCKS", unset="3/4"))
    """Vision blocks, from the first, with vectors. By default three quarters, the published 9 of 12."""
    text_weight: float = field(default=25.0, metadata=facts(unit="WEIGHT", at_least=0, reason="PromptSRC"))
    """Weight of the L1 distance of text features. The distance is to those of the frozen tower."""
    image_weight: float = field(default=10.0, metadata=facts(unit="WEIGHT", at_least=0, reason="PromptSRC"))
    """Weight of the L1 distance of image features. The distance is to those of the frozen tower."""
    logit_weight: float = field(default=1.0, metadata=facts(unit="WEIGHT", at_least=0, reason="PromptSRC"))
    """Weight of the KL divergence of predictions. The divergence is from those of the frozen model."""
    reference_templates: tuple[str, ...] = field(
        default=(), metadata=facts(unit="TEXT", unset="60 templates")
    )
    """Templates of the frozen text features. They are averaged. Default: sixty of this package; the published sixty
    are others."""


@register("promptsrc")
class PromptSrc(ClassPromptMethod[PromptSrcConfig]):
    """L = CE(s I Tᵀ, y) + 25 mean|T - T0| + 10 mean|I - I0| + KL(p0 || p) / C, with T0, I0, p0 without prompts.

    T0 is the mean of the un-normalised text features of sixty templates, L2-normalised. The KL divergence, at
    temperature 1, is summed over classes and divided by B C, as in the released code. Predictions use the Gaussian
    average of the prompts over the run (--average gaussian).
    """

    summary = "deep prompts in both towers, regularised by the frozen model, averaged over the run"
    source = (
        "Khattak et al., Self-regulating Prompts: Foundational Model Adaptation without Forgetting, ICCV 2023"
    )
    trains = "prompt vectors"
    needs = ("text prompts", "image prompts")
    Config = PromptSrcConfig
    average = "gaussian"
    search: ClassVar[SearchSpace] = {
        **NEW_PARAMETERS,
        "average": Choice(("none", "gaussian")),
        "text_weight": LogUniform(1, 100),
        "image_weight": LogUniform(1, 100),
    }

    def setup(self, backbone: Backbone, episode: Episode, templates: Sequence[str]) -> None:
        super().setup(backbone, episode, templates)
        o = self.config
        check_count(o.vision_tokens, "--vision-tokens")
        blocks, width = backbone.text_shape
        text_depth = scaled_depth("--text-depth", o.text_depth, blocks)
        vision_depth = scaled_depth("--vision-depth", o.vision_depth, backbone.num_blocks)
        first, self.words = split_context(
            backbone, o.context_init, o.context_tokens
        )  # [m, W], [r, W] or None
        deep = STD * torch.randn(text_depth - 1, o.context_tokens, width, device=backbone.device)
        vision = torch.randn(vision_depth, o.vision_tokens, backbone.vision_width, device=backbone.device)
        self.text_vectors = nn.Parameter(torch.cat([first.unsqueeze(0), deep]))  # [J, m, W]
        self.vision_vectors = nn.Parameter(STD * vision)  # [J', n, vision width]
        vectors = {"text": self.text_vectors, "vision": self.vision_vectors}
        self.extra["prompts"] = nn.ParameterDict(vectors)
        self.prompts = self.class_prompts(episode.class_names)
        self.references: Tensor | None = None

    def resolved(self) -> dict[str, object]:
        return {
            "text_depth": len(self.text_vectors),
            "vision_depth": len(self.vision_vectors),
            "reference_templates": len(self.config.reference_templates or TEMPLATES),
        }

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        o = self.config
        if self.references is None:
            self.references = self.reference_features(self.episode.class_names)  # T0, [C, d]
        with torch.no_grad():
            frozen_image = self.image_features(batch.images)  # I0, [B, d]
            frozen_logits = cosine_logits(frozen_image, self.references, self.scale)  # [B, C]
        with self.hooks():
            image = self.image_features(batch.images)  # [B, d]
            text = self.prompt_features(self.prompts)  # [C, d]
        logits = cosine_logits(image, text, self.scale)  # [B, C]
        divergence = F.kl_div(
            logits.log_softmax(dim=1), frozen_logits.log_softmax(dim=1), reduction="sum", log_target=True
        )
        return {
            "loss_ce": F.cross_entropy(logits, batch.labels),
            "loss_text": o.text_weight * F.l1_loss(text, self.references),
            "loss_image": o.image_weight * F.l1_loss(image, frozen_image),
            "loss_logits": o.logit_weight * divergence / logits.numel(),
        }

    def hooks(self) -> AbstractContextManager[None]:
        return self.backbone.hooks(**deep_hooks(self.text_vectors, self.vision_vectors))

    def class_prompts(self, class_names: Sequence[str]) -> ClassPrompts:
        return ClassPrompts(self.backbone, class_names, self.config.context_tokens, words=self.words)

    def prompt_features(self, prompts: ClassPrompts) -> Tensor:
        return prompts.encode(self.text_vectors[:1])[0]  # [1, m, W] -> [1, C, d] -> [C, d]

    @torch.no_grad()
    def reference_features(self, class_names: Sequence[str]) -> Tensor:
        """Return T0, [C, d]: the sum over templates of un-normalised text features, L2-normalised."""
        total = torch.zeros(len(class_names), self.backbone.embed_dim, device=self.backbone.device)  # [C, d]
        by_class = fill_templates(class_names, self.config.reference_templates or TEMPLATES)
        with torch.autocast(total.device.type, enabled=False):
            for texts in zip(*by_class, strict=True):  # one template at a time, to bound memory
                total += self.backbone.encode_text(list(texts)).float()
        return F.normalize(total, dim=-1)
