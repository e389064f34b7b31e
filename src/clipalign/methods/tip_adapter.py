"""Tip-Adapter: class prompts plus a cache of training features; nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.config import Options, facts
from ..losses import cosine_logits, unit_features
from . import register
from .base import PREFIX, Classifier, Method, Validation
from .shared.heads import encode_all, positions, require_all_classes

if TYPE_CHECKING:
    from ..backbone import Backbone
    from ..core.types import Episode

# Published for ImageNet at CLIP's logit scale of 100: start values, and the search from MIN to the maxima.
ALPHA, BETA, MIN, MAX_ALPHA, MAX_BETA, PUBLISHED_SCALE = 1.17, 1.0, 0.1, 3.0, 7.0, 100.0


@dataclass(frozen=True)
class TipAdapterConfig(Options):
    """Options of the cache. Defaults of alpha and beta are s / 100 times the published values for ImageNet."""

    cache_alpha: float | None = field(
        default=None, metadata=facts(unit="WEIGHT", unset="validation", at_least=0)
    )
    """Weight alpha of the cache; 0: zero-shot."""
    cache_beta: float | None = field(
        default=None, metadata=facts(unit="FACTOR", unset="validation", at_least=0)
    )
    """Sharpness beta of the cache. A key at cosine A counts exp(-beta (1 - A))."""
    cache_shots: int = field(
        default=16, metadata=facts(unit="IMAGES", at_least=0, reason="Tip-Adapter: 1 to 16")
    )
    """Cached images per class; 0: all. Drawn with --seed."""
    cache_views: int = field(default=10, metadata=facts(unit="VIEWS", at_least=1, reason="Tip-Adapter"))
    """Augmented views per cached image. Their mean feature is the key."""
    cache_alpha_scale: float | None = field(
        default=None, metadata=facts(unit="WEIGHT", unset="3 s/100", at_least=0)
    )
    """Search: largest alpha. Published: 3 to 50, by data set; s is the logit scale."""
    cache_beta_scale: float | None = field(
        default=None, metadata=facts(unit="FACTOR", unset="7 s/100", at_least=0)
    )
    """Search: largest beta. Published: 7 to 50, by data set; s is the logit scale."""
    cache_alpha_steps: int = field(default=20, metadata=facts(unit="COUNT", at_least=1, reason="Tip-Adapter"))
    """Search: values of alpha."""
    cache_beta_steps: int = field(default=200, metadata=facts(unit="COUNT", at_least=1, reason="Tip-Adapter"))
    """Search: values of beta."""


class Cache(nn.Module):
    """Keys [N, d] of training images, their labels [N], and the constants (alpha, beta)."""

    labels: Tensor
    constants: Tensor

    def __init__(self, entries: int, width: int) -> None:
        super().__init__()
        self.keys = nn.Parameter(torch.zeros(entries, width), requires_grad=False)
        self.register_buffer("labels", torch.zeros(entries, dtype=torch.int64))
        self.register_buffer("constants", torch.zeros(2))

    def scores(self, affinity: Tensor, beta: float | Tensor, columns: Tensor, classes: int) -> Tensor:
        """Return the sum of exp(-beta (1 - A)) over the keys of each class: [B, N] -> [B, classes].

        Args:
            affinity: A, cosines of images and keys.
            beta: sharpness.
            columns: [trained classes], position of each in the class list; -1 if it is not listed.
            classes: length of the class list. Classes without keys score 0.
        """
        column = columns[self.labels]  # [N]
        listed = column >= 0
        weights = (-beta * (1 - affinity[:, listed])).exp()  # [B, keys of listed classes]
        return weights.new_zeros(len(weights), classes).index_add(1, column[listed], weights)


@register("tip-adapter")
class TipAdapter(Method[TipAdapterConfig]):
    """z = s I Tᵀ + alpha exp(-beta (1 - I Kᵀ)) V with keys K and one-hot labels V of training images.

    A key is the mean image feature over augmented views, L2-normalised. alpha and beta maximise source validation
    accuracy (the released code uses the test set for ImageNet). Classes without training images are scored by their
    prompts only.
    """

    summary = "class prompts plus votes of cached training features, no training"
    source = (
        "Zhang et al., Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification, ECCV 2022"
    )
    trains = "nothing"
    Config = TipAdapterConfig
    iterates = False

    def setup(self, backbone: Backbone, episode: Episode, templates: Sequence[str]) -> None:
        super().setup(backbone, episode, templates)
        o, unit = self.config, float(self.scale) / PUBLISHED_SCALE
        self.alpha = ALPHA * unit if o.cache_alpha is None else o.cache_alpha
        self.beta = BETA * unit if o.cache_beta is None else o.cache_beta
        self.max_alpha = MAX_ALPHA * unit if o.cache_alpha_scale is None else o.cache_alpha_scale
        self.max_beta = MAX_BETA * unit if o.cache_beta_scale is None else o.cache_beta_scale
        labels = episode.source.labels[episode.train_rows]
        counts = np.unique(labels, return_counts=True)[1]
        entries = int(np.minimum(counts, o.cache_shots).sum() if o.cache_shots else counts.sum())
        self.add_cache(entries)
        self.text = self.text_features(episode.class_names)  # [C, d]

    def add_cache(self, entries: int) -> None:
        """Create an empty cache with the start values of alpha and beta."""
        self.extra["cache"] = Cache(entries, self.backbone.embed_dim).to(self.backbone.device)
        self.cache.constants.copy_(torch.tensor((self.alpha, self.beta)))

    @property
    def cache(self) -> Cache:
        """Keys, labels and constants."""
        cache = self.extra["cache"]
        assert isinstance(cache, Cache)
        return cache

    def resolved(self) -> dict[str, object]:
        return {
            "cache_entries": len(self.cache.labels),
            "cache_alpha": self.alpha,
            "cache_beta": self.beta,
            "cache_alpha_scale": self.max_alpha,
            "cache_beta_scale": self.max_beta,
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load as `Method.load_state_dict`; the cache takes the size of the stored one."""
        stored = state.get(f"{PREFIX}cache.keys")
        if stored is not None and len(stored) != len(self.cache.keys):
            trained = self.cache.keys.requires_grad
            self.add_cache(len(stored))
            self.cache.keys.requires_grad_(trained)
        super().load_state_dict(state)

    def finish(self, validation: Validation) -> dict[str, object]:
        """Fill the cache and choose alpha and beta."""
        self.fill(validation)
        return self.search_constants(validation)

    @torch.no_grad()
    def fill(self, validation: Validation) -> None:
        """Compute the keys and labels of the cache."""
        total: Tensor | None = None
        labels, done = [], 0
        count = len(self.episode.train_rows)
        for batch in validation.training(self.config.cache_views):
            features = self.backbone.encode_image(batch.images).float()  # [B, d]
            total = features.new_zeros(count, features.shape[1]) if total is None else total  # [n, d]
            # Every pass yields all rows in order. Features are averaged before they are normalised, as published.
            rows = (done + torch.arange(len(batch), device=features.device)) % count  # [B]
            total.index_add_(0, rows, features)
            labels.append(batch.labels[: max(0, count - done)])
            done += len(batch)
        assert total is not None
        label = torch.cat(labels)  # [n]
        require_all_classes(label, self.episode.class_names, self.name)
        chosen = self.draw(label)  # [N]
        self.cache.keys.copy_(F.normalize(total[chosen], dim=-1))
        self.cache.labels.copy_(label[chosen])

    def draw(self, labels: Tensor) -> Tensor:
        """Return the positions of the cached images, `cache_shots` of each class: [n] -> [N]."""
        chosen = []
        for k in range(len(self.episode.class_names)):
            members = (labels == k).nonzero().squeeze(1)
            order = torch.randperm(len(members)).to(members.device)
            chosen.append(members[order[: self.config.cache_shots or len(members)]])
        return torch.cat(chosen)

    @torch.no_grad()
    def search_constants(self, validation: Validation) -> dict[str, object]:
        """Set alpha and beta to those of the highest source validation accuracy, the first on a tie."""
        features, labels = encode_all(self.backbone, validation.batches())  # [n, d], [n]
        image = unit_features(features)
        affinity = cosine_logits(image, self.cache.keys, 1.0)  # [n, N]
        prompt_logits = cosine_logits(image, self.text, self.scale)  # [n, C]
        columns = torch.arange(len(self.text), device=image.device)
        o, best = self.config, (-1, 0.0, 0.0)
        alphas = candidates(
            o.cache_alpha, MIN * self.max_alpha / MAX_ALPHA, self.max_alpha, o.cache_alpha_steps
        )
        betas = candidates(o.cache_beta, MIN * self.max_beta / MAX_BETA, self.max_beta, o.cache_beta_steps)
        for beta in betas:
            scores = self.cache.scores(affinity, beta, columns, len(self.text))  # [n, C]
            for alpha in alphas:
                correct = int(((prompt_logits + alpha * scores).argmax(dim=1) == labels).sum())
                best = max(best, (correct, alpha, beta), key=lambda candidate: candidate[0])
        correct, alpha, beta = best
        self.cache.constants.copy_(torch.tensor([alpha, beta]))
        return {"alpha": alpha, "beta": beta, "validation_accuracy": correct / len(labels)}

    def logits(self, image: Tensor, text: Tensor, columns: Tensor) -> Tensor:
        """Return the logits of L2-normalised image features [B, d] for the classes of `text` [C, d]: [B, C]."""
        alpha, beta = self.cache.constants
        affinity = cosine_logits(image, self.cache.keys, 1.0)  # [B, N]
        scores = self.cache.scores(affinity, beta, columns, len(text))  # [B, C]
        return cosine_logits(image, text, self.scale) + alpha * scores

    def classifier(self, class_names: Sequence[str], templates: Sequence[str] | None = None) -> Classifier:
        """Return the classifier over any class list; the cache scores the training classes."""
        text = self.text_features(class_names, templates)  # [C, d]
        known = positions(self.episode.class_names, class_names)
        columns = torch.tensor([-1 if c is None else c for c in known], device=text.device)

        def logits(images: Tensor) -> Tensor:
            with torch.autocast(images.device.type, enabled=False):
                return self.logits(self.image_features(images).float(), text, columns)

        return logits


def candidates(given: float | None, low: float, high: float, steps: int) -> list[float]:
    """Return the given value, or `steps` evenly spaced ones from `low` up to but not including `high`."""
    return [given] if given is not None else [low + i * (high - low) / steps for i in range(steps)]
