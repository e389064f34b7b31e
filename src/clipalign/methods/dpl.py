"""DPL: a network generates the context of the prompts from the images of a domain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..backbone.text.context import check_count
from ..backbone.text.prompts import ClassPrompts
from ..core.config import Options, facts
from ..core.search import NEW_PARAMETERS, SearchSpace
from ..losses import cosine_logits, unit_features
from . import register
from .base import Classifier, Method
from .capabilities import JointClassifier

if TYPE_CHECKING:
    from ..backbone import Backbone
    from ..core.types import Batch, Episode

DECAY = 0.99  # per step, of the running mean of training prompts


@dataclass(frozen=True)
class DplConfig(Options):
    """Published defaults, with the loss of the paper's text."""

    context_tokens: int = field(default=16, metadata=facts(unit="TOKENS", reason="DPL"))
    """Vectors per domain prompt. DPL searches 2 to 16."""
    generator_width: int | None = field(default=None, metadata=facts(unit="UNITS", unset="joint size"))
    """Hidden units of the generator. Published: 512, the joint size d of CLIP's ViT-B/16."""
    generator_depth: int = field(default=3, metadata=facts(unit="LAYERS", at_least=2, reason="DPL"))
    """Linear layers of the generator."""
    generator_dropout: float = field(
        default=0.1, metadata=facts(unit="SHARE", at_least=0, below=1, reason="DPL")
    )
    """Dropout rate of the generator."""
    domain_loss: Literal["paper", "released"] = "paper"
    """Prompts to compare: paper or released. paper: those of the image's domain; released: those of all source
    domains, of which the first domain's count as correct."""
    prompt_from: Literal["batch", "training"] = "batch"
    """Predictions: prompt from batch or training. batch: from test images of one domain, shuffled with a fixed seed;
    training: a running mean over the training batches, which scores every image independently."""
    prompt_batch: int = field(default=64, metadata=facts(unit="IMAGES", at_least=1, reason="DPL"))
    """Predictions: most images per prompt. Of --prompt-from batch. Published: 64."""


class Generator(nn.Module):
    """An MLP from image features to prompt vectors, and the running mean of its training outputs.

    Args:
        features: d, width of the image features.
        hidden: width of the hidden layers.
        depth: linear layers.
        dropout: rate, applied before each ReLU as in the released code.
        tokens: m, vectors per prompt.
        width: W, of the text tower.
    """

    mean: Tensor
    steps: Tensor

    def __init__(
        self, features: int, hidden: int, depth: int, dropout: float, tokens: int, width: int
    ) -> None:
        super().__init__()
        sizes = [features, *[hidden] * (depth - 1), tokens * width]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.dropout, self.shape = dropout, (tokens, width)
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            nn.init.xavier_uniform_(layer.weight)
            nn.init.constant_(layer.bias, 0.01)
        self.register_buffer("mean", torch.zeros(tokens, width))
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, features: Tensor) -> Tensor:
        """Return the mean output over the images of one domain: [n, d] -> [m, W]."""
        x = features
        for layer in self.layers[:-1]:
            x = F.relu(F.dropout(layer(x), self.dropout, self.training))
        return self.layers[-1](x).mean(dim=0).unflatten(0, self.shape)  # [n, mW] -> [mW] -> [m, W]

    @torch.no_grad()
    def update_mean(self, prompts: Tensor) -> None:
        """Add the prompts of a training step, [m, W], to the running mean."""
        self.steps += 1
        # A plain mean over the first steps, then exponential: the zeros of the start carry no weight.
        self.mean.lerp_(prompts.to(self.mean.dtype), max(1 - DECAY, 1 / float(self.steps)))


@register("dpl")
class Dpl(Method[DplConfig]):
    """L = CE(s I T_iᵀ, y) with T_i = text(G_i, NAME.) and G_i = mean over the images of domain i of MLP(E).

    E are image features as the tower gives them, I the same L2-normalised. Published predictions compute G from the
    test batch: they depend on its size and composition. Evaluation therefore forms batches of one domain, shuffled with
    a fixed seed: rows sorted by class would put few classes into a batch, and the prompt would reveal them.
    --prompt-from training scores every image independently.
    """

    summary = "a network generates context vectors from the mean of a domain's image features"
    source = "Zhang et al., Domain Prompt Learning for Efficiently Adapting CLIP to Unseen Domains, 2022"
    trains = "prompt generator"
    needs = ("text prompts",)
    Config = DplConfig
    search: ClassVar[SearchSpace] = NEW_PARAMETERS
    uses_templates = False
    mean_over_rows = False  # the prompt of a domain depends on all its images

    def setup(self, backbone: Backbone, episode: Episode, templates: Sequence[str]) -> None:
        super().setup(backbone, episode, templates)
        o = self.config
        check_count(o.context_tokens)
        self.width = backbone.embed_dim if o.generator_width is None else o.generator_width
        check_count(self.width, "--generator-width")
        self.prompts = ClassPrompts(backbone, episode.class_names, o.context_tokens)
        generator = Generator(
            backbone.embed_dim,
            self.width,
            o.generator_depth,
            o.generator_dropout,
            o.context_tokens,
            backbone.text_shape[1],
        )
        self.generator = self.extra["generator"] = generator.to(backbone.device)

    def resolved(self) -> dict[str, object]:
        return {"generator_width": self.width}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        features = self.backbone.encode_image(batch.images)  # E, [B, d]
        # D domains of the batch in ascending order, and the position of each image's domain among them, [B].
        present, domain = batch.domains.unique(return_inverse=True)
        groups = [features[domain == i] for i in range(len(present))]  # D x [n_i, d]
        self.generator.eval()
        with torch.no_grad():
            self.generator.update_mean(torch.stack([self.generator(group) for group in groups]).mean(dim=0))
        self.generator.train()
        context = torch.stack([self.generator(group) for group in groups])  # G, [D, m, W]
        text = self.prompts.encode(context)  # [D, C, d]
        # released: every image against all D C prompts; label y then names class y of the first domain.
        text = (
            text.flatten(0, 1) if self.config.domain_loss == "released" else text[domain]
        )  # [DC, d] or [B, C, d]
        logits = cosine_logits(unit_features(features), text, self.scale)  # [B, DC] or [B, C]
        return {"loss_ce": F.cross_entropy(logits, batch.labels)}

    def classifier(self, class_names: Sequence[str], templates: Sequence[str] | None = None) -> Classifier:
        prompts = ClassPrompts(self.backbone, class_names, self.config.context_tokens)
        text = self.training_features(prompts) if self.config.prompt_from == "training" else None

        def logits(images: Tensor) -> Tensor:
            features = self.backbone.encode_image(images)  # [B, d]
            image = unit_features(features)
            if text is not None:
                return cosine_logits(image, text, self.scale)  # [B, C]
            chunks = zip(
                image.split(self.config.prompt_batch), self.batch_features(features, prompts), strict=True
            )
            return torch.cat([cosine_logits(chunk, t, self.scale) for chunk, t in chunks])  # [B, C]

        return logits if text is not None else JointClassifier(logits, self.config.prompt_batch)

    @torch.no_grad()
    def explain_text_features(self, texts: Sequence[str], images: Tensor) -> Tensor:
        prompts = ClassPrompts(self.backbone, texts, self.config.context_tokens)
        if self.config.prompt_from == "training":
            return self.training_features(prompts)
        return self.batch_features(self.backbone.encode_image(images), prompts)[0]

    @torch.no_grad()
    def training_features(self, prompts: ClassPrompts) -> Tensor:
        """Return the text features of the mean training prompt, [C, d], L2-normalised."""
        return prompts.encode(self.generator.mean.unsqueeze(0))[0]  # [1, m, W] -> [1, C, d] -> [C, d]

    def batch_features(self, features: Tensor, prompts: ClassPrompts) -> Tensor:
        """Return the text features for each `prompt_batch` images: [B, d] -> [chunks, C, d], L2-normalised."""
        self.generator.eval()
        chunks = features.split(self.config.prompt_batch)
        return prompts.encode(torch.stack([self.generator(chunk) for chunk in chunks]))
