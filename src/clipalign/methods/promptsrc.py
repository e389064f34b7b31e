"""PromptSRC: deep prompts in both towers, held near what the towers say without them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..backbone.text.context import STD, check_count, deep_hooks, scaled_depth, split_context
from ..backbone.text.prompts import ClassPrompts, cosine_logits
from ..core.errors import UserError
from . import register
from .coop import TRAINER
from .shared.deep_prompts import DeepPromptMethod

if TYPE_CHECKING:
    from ..backbone import Backbone
    from ..core.types import Batch, Episode

# Sixty ways of speaking of a class, for the reference features ("textual diversity").
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
class PromptSrcConfig:
    """Published defaults of base-to-new experiments; cross-data-set ones took depth 3 and --gaussian-mean 0.3
    --gaussian-std 0.5."""

    context_tokens: int = 4
    """Learned vectors per text block."""
    context_init: str = "a photo of a"
    """Phrase whose first token embeddings are the start of the text vectors of the first block; with fewer
    words than vectors the start is normal(0, 0.02)."""
    vision_tokens: int = 4
    """Learned vectors per vision block."""
    text_depth: int | None = None
    """Text blocks, from the first, that get vectors. Default: three quarters (published: 9 of 12)."""
    vision_depth: int | None = None
    """Vision blocks, from the first, that get vectors. Default: three quarters (published: 9 of 12)."""
    text_weight: float = 25.0
    """Weight of the distance to the text features of the frozen tower."""
    image_weight: float = 10.0
    """Weight of the distance to the image features of the frozen tower."""
    logit_weight: float = 1.0
    """Weight of the divergence from the frozen model's class distribution."""
    reference_templates: tuple[str, ...] = ()
    """Templates of the frozen text features, averaged. Default: sixty of this package; the published sixty are
    another list."""

    def __post_init__(self) -> None:
        for name in ("text_weight", "image_weight", "logit_weight"):
            if not getattr(self, name) >= 0:
                raise UserError(f"--{name.replace('_', '-')} must be at least 0, not {getattr(self, name):g}")


@register("promptsrc")
class PromptSrc(DeepPromptMethod):
    """L = CE + 25 mean|T - T0| + 10 mean|I - I0| + KL(p0 || p) / C, with T0, I0, p0 of the model unprompted.

    T0 is the mean of the un-normalised text features of sixty templates, then normalised; the KL is summed
    over classes and divided by B C, at temperature 1. Predictions are those of the Gaussian average of the
    prompts over the run (--average gaussian).
    """

    summary = "deep prompts in both towers, regularised by the frozen model, averaged over the run"
    source = (
        "Khattak et al., Self-regulating Prompts: Foundational Model Adaptation without Forgetting, ICCV 2023"
    )
    trains = "prompt vectors"
    Config = PromptSrcConfig
    average = "gaussian"
    published: ClassVar[Mapping[str, Any]] = {
        # Few-shot training, 16 images of 50 classes: 20 epochs of 200 steps.
        **TRAINER,
        "lr": 2.5e-3,
        "warmup_steps": 1 / 20,
        "steps": 4000,
        "batch_size": 4,
        "gaussian_mean": 0.75,
        "gaussian_std": 0.05,
        "gaussian_parts": 20,
    }

    def setup(self, backbone: Backbone, episode: Episode, templates: Sequence[str]) -> None:
        super().setup(backbone, episode, templates)
        o: PromptSrcConfig = self.config
        check_count(o.vision_tokens, "--vision-tokens")
        blocks, width = backbone.text_shape
        text_depth = scaled_depth("--text-depth", o.text_depth, blocks)
        vision_depth = scaled_depth("--vision-depth", o.vision_depth, backbone.num_blocks)
        first, self.words = split_context(backbone, o.context_init, o.context_tokens)
        deep = STD * torch.randn(text_depth - 1, o.context_tokens, width, device=backbone.device)
        vision = torch.randn(vision_depth, o.vision_tokens, backbone.vision_width, device=backbone.device)
        self.text_vectors = nn.Parameter(torch.cat([first.unsqueeze(0), deep]))  # [J, m, W]
        self.vision_vectors = nn.Parameter(STD * vision)  # [J, n, W]
        vectors = {"text": self.text_vectors, "vision": self.vision_vectors}
        self.extra["prompts"] = nn.ParameterDict(vectors)
        self.prompts = self.class_prompts(episode.class_names)
        self.references: Tensor | None = None

    def resolved(self) -> dict[str, Any]:
        return {
            "text_depth": len(self.text_vectors),
            "vision_depth": len(self.vision_vectors),
            "reference_templates": len(self.config.reference_templates or TEMPLATES),
        }

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        o: PromptSrcConfig = self.config
        if self.references is None:
            self.references = self.reference_features(self.episode.class_names)
        with torch.no_grad():
            frozen_image = self.image_features(batch.images).float()
            frozen = cosine_logits(self.scale, frozen_image, self.references).log_softmax(dim=1)
        with self.hooks():
            image, text = self.image_features(batch.images), self.prompt_features(self.prompts)
        logits = cosine_logits(self.scale, image, text)
        divergence = F.kl_div(logits.log_softmax(dim=1), frozen, reduction="sum", log_target=True)
        return {
            "loss_ce": F.cross_entropy(logits, batch.labels),
            "loss_text": o.text_weight * F.l1_loss(text, self.references),
            "loss_image": o.image_weight * F.l1_loss(image.float(), frozen_image),
            "loss_logits": o.logit_weight * divergence / logits.numel(),
        }

    def hooks(self) -> AbstractContextManager[None]:
        """Both towers with their vectors."""
        return self.backbone.hooks(**deep_hooks(self.text_vectors, self.vision_vectors))

    def class_prompts(self, class_names: Sequence[str]) -> ClassPrompts:
        """The fixed part of the prompts."""
        return ClassPrompts(self.backbone, class_names, self.config.context_tokens, words=self.words)

    def prompt_features(self, prompts: ClassPrompts) -> Tensor:
        """T, [C, d] unit rows; within `hooks`."""
        return prompts.encode(self.text_vectors[:1])[0]

    @torch.no_grad()
    def reference_features(self, class_names: Sequence[str]) -> Tensor:
        """T0, [C, d] unit rows: the mean over templates of features as the tower gives them, normalised."""
        from ..backbone.text.features import fill_templates

        total = torch.zeros(len(class_names), self.backbone.embed_dim, device=self.backbone.device)
        by_class = fill_templates(class_names, self.config.reference_templates or TEMPLATES)
        with torch.autocast(total.device.type, enabled=False):
            for texts in zip(*by_class, strict=True):
                total += self.backbone.encode_text(list(texts)).float()
        return F.normalize(total, dim=-1)
