"""DPL: a network makes the context of the prompts from what the images of a domain have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..backbone.text.context import check_count
from ..backbone.text.prompts import ClassPrompts, cosine_logits
from ..core.errors import UserError
from . import register
from .base import Classifier, Method
from .shared.heads import DOMAINBED

if TYPE_CHECKING:
    from ..backbone import Backbone
    from ..core.types import Batch, Episode

MEMORY = 0.99  # of the running mean of training prompts, per step


@dataclass(frozen=True)
class DplConfig:
    """Published defaults, with the loss of the paper's text."""

    context_tokens: int = 16
    """Vectors of a domain prompt (searched: 2, 4, 8, 16)."""
    generator_width: int | None = None
    """Hidden units of the network. Default: the joint size d (published: 512 of CLIP's 512)."""
    generator_depth: int = 3
    """Its linear layers."""
    generator_dropout: float = 0.1
    """Share of hidden units dropped in training."""
    domain_loss: Literal["paper", "released"] = "paper"
    """paper: each image is compared with the prompts of its own domain. released: with those of all source
    domains, and right are those of the first, as the released code computes it."""
    prompt_from: Literal["batch", "training"] = "batch"
    """Which images make the prompt at test time. batch: those that are classified, as published; predictions
    then depend on which images come together. training: a running mean over the training batches, and
    every image is judged alone."""
    prompt_batch: int = 64
    """With --prompt-from batch: images that make one prompt, in the order they come (published: 64)."""

    def __post_init__(self) -> None:
        for name, low in (("generator_depth", 2), ("prompt_batch", 1)):
            if getattr(self, name) < low:
                raise UserError(
                    f"--{name.replace('_', '-')} must be at least {low}, not {getattr(self, name)}"
                )
        if not 0 <= self.generator_dropout < 1:
            raise UserError(f"--generator-dropout must be in [0, 1), not {self.generator_dropout:g}")


class Generator(nn.Module):
    """[n, d] image features of one domain -> [m, W], the mean of what the layers make of each."""

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
        x = features
        for layer in self.layers[:-1]:
            x = F.relu(F.dropout(layer(x), self.dropout, self.training))
        return self.layers[-1](x).mean(dim=0).unflatten(0, self.shape)

    @torch.no_grad()
    def remember(self, prompts: Tensor) -> None:
        """Take [m, W] of a training step into the running mean."""
        self.steps += 1
        self.mean.lerp_(prompts.to(self.mean.dtype), max(1 - MEMORY, 1 / float(self.steps)))


@register("dpl")
class Dpl(Method):
    """T_i = text(G_i, NAME.), G_i = mean over domain i's images of MLP(E), E not normalised; CE with own T_i.

    Published predictions make G from the test batch: they change with its size and composition, and mixed
    domains or a short last batch give other prompts. --prompt-from training has none of that.
    """

    summary = "a network makes context vectors from the mean of a domain's image features"
    source = "Zhang et al., Domain Prompt Learning for Efficiently Adapting CLIP to Unseen Domains, 2022"
    trains = "prompt generator"
    Config = DplConfig
    uses_templates = False
    mean_over_rows = False  # a domain's prompt is made from all its images
    published: ClassVar[Mapping[str, Any]] = {
        **DOMAINBED,
        "lr": 1e-3,
        "optimizer": "sgd",
        "momentum": 0.1,
    }

    def setup(self, backbone: Backbone, episode: Episode, templates: Sequence[str]) -> None:
        super().setup(backbone, episode, templates)
        o: DplConfig = self.config
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

    def resolved(self) -> dict[str, Any]:
        return {"generator_width": self.width}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        features = self.backbone.encode_image(batch.images)
        # Domains in ascending order, and for each image the position of its own.
        present, own = batch.domains.unique(return_inverse=True)
        parts = [features[own == i] for i in range(len(present))]
        self.generator.eval()
        with torch.no_grad():
            self.generator.remember(torch.stack([self.generator(part) for part in parts]).mean(dim=0))
        self.generator.train()
        text = self.prompts.encode(torch.stack([self.generator(part) for part in parts]))
        image = F.normalize(features, dim=-1)
        if self.config.domain_loss == "released":
            logits = cosine_logits(self.scale, image, text.flatten(0, 1))
        else:
            logits = cosine_logits(self.scale, image, text[own])
        return {"loss_ce": F.cross_entropy(logits, batch.labels)}

    def classifier(self, class_names: Sequence[str], templates: Sequence[str] | None = None) -> Classifier:
        prompts = ClassPrompts(self.backbone, class_names, self.config.context_tokens)
        kept: Tensor | None = None
        if self.config.prompt_from == "training":
            kept = self.kept_features(prompts)

        def logits(images: Tensor) -> Tensor:
            features = self.backbone.encode_image(images)
            image = F.normalize(features, dim=-1)
            if kept is not None:
                return cosine_logits(self.scale, image, kept)
            size = self.config.prompt_batch
            parts = zip(image.split(size), self.batch_features(features, prompts), strict=True)
            return torch.cat([cosine_logits(self.scale, part, t) for part, t in parts])

        return logits

    @torch.no_grad()
    def spoken(self, texts: Sequence[str], images: Tensor) -> Tensor:
        prompts = ClassPrompts(self.backbone, texts, self.config.context_tokens)
        if self.config.prompt_from == "training":
            return self.kept_features(prompts)
        return self.batch_features(self.backbone.encode_image(images), prompts)[0]

    @torch.no_grad()
    def kept_features(self, prompts: ClassPrompts) -> Tensor:
        """[C, d] unit rows, of the mean prompt of training."""
        return prompts.encode(self.generator.mean.unsqueeze(0))[0]

    def batch_features(self, features: Tensor, prompts: ClassPrompts) -> Tensor:
        """Raw image features [B, d] -> the texts of each `prompt_batch` of them, [parts, C, d] unit rows."""
        self.generator.eval()
        parts = features.split(self.config.prompt_batch)
        return prompts.encode(torch.stack([self.generator(part) for part in parts]))
