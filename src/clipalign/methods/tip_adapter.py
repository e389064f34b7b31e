"""Tip-Adapter: a cache of training features votes beside the class prompts; nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import UserError
from . import register
from .base import Classifier, Method, Validation
from .shared.heads import columns_of, require_all_classes

if TYPE_CHECKING:
    from ..backbone import Backbone
    from ..core.types import Episode

# Published constants for ImageNet, which belong to CLIP's scale of 100.
ALPHA, BETA, ALPHA_SCALE, BETA_SCALE, PUBLISHED_SCALE = 1.17, 1.0, 3.0, 7.0, 100.0


@dataclass(frozen=True)
class TipAdapterConfig:
    """Options of the cache. alpha and beta go with CLIP's scale s: their defaults are s / 100 times the
    published values for ImageNet."""

    cache_alpha: float | None = None
    """Weight of the cache's votes; 0 is zero-shot. Default: chosen on source validation."""
    cache_beta: float | None = None
    """Sharpness of the cache: a training image at cosine A votes with exp(-beta (1 - A)). Default: chosen on
    source validation."""
    cache_shots: int = 16
    """Training images per class in the cache, drawn with --seed; 0 takes all (published: 1 to 16)."""
    cache_views: int = 10
    """Training views of each image whose features are averaged to its key."""
    cache_alpha_scale: float | None = None
    """Largest alpha that is tried. Default: 3 s / 100 (published: 3 to 50 by data set)."""
    cache_beta_scale: float | None = None
    """Largest beta that is tried. Default: 7 s / 100 (published: 7 to 50 by data set)."""
    cache_alpha_steps: int = 20
    """Number of values of alpha that are tried."""
    cache_beta_steps: int = 200
    """Number of values of beta that are tried."""

    def __post_init__(self) -> None:
        for name in ("cache_alpha", "cache_beta", "cache_shots", "cache_alpha_scale", "cache_beta_scale"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise UserError(f"--{name.replace('_', '-')} must be at least 0, not {value:g}")
        for name in ("cache_views", "cache_alpha_steps", "cache_beta_steps"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(self, name)}")


class Cache(nn.Module):
    """Keys [N, d] of training images, their labels [N], and the two constants of the vote."""

    labels: Tensor
    constants: Tensor

    def __init__(self, entries: int, width: int) -> None:
        super().__init__()
        self.keys = nn.Parameter(torch.zeros(entries, width), requires_grad=False)
        self.register_buffer("labels", torch.zeros(entries, dtype=torch.int64))
        self.register_buffer("constants", torch.zeros(2))

    def votes(self, affinity: Tensor, beta: float | Tensor, columns: Tensor, classes: int) -> Tensor:
        """Sum per class of exp(-beta (1 - A)): [B, N] -> [B, classes].

        Args:
            affinity: A, cosines of images and keys.
            beta: sharpness.
            columns: [trained classes], where each stands in the class list; -1 for those not in it.
            classes: length of the class list. Classes without entries get no votes.
        """
        where = columns[self.labels]
        strength = (-beta * (1 - affinity[:, where >= 0])).exp()
        empty = strength.new_zeros(len(strength), classes)
        return empty.index_add(1, where[where >= 0], strength)


@register("tip-adapter")
class TipAdapter(Method):
    """z = s I Tᵀ + alpha exp(-beta (1 - I Kᵀ)) V, with keys K and one-hot labels V of training images.

    A key is the mean of the image's features over augmented views, normalised. alpha and beta are those of
    the best accuracy on source validation (the published code looks at the test set for ImageNet). Classes
    without training images are scored by their prompts alone.
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
        self.start_at = (
            ALPHA * unit if o.cache_alpha is None else o.cache_alpha,
            BETA * unit if o.cache_beta is None else o.cache_beta,
        )
        self.scales = (
            ALPHA_SCALE * unit if o.cache_alpha_scale is None else o.cache_alpha_scale,
            BETA_SCALE * unit if o.cache_beta_scale is None else o.cache_beta_scale,
        )
        labels = episode.source.labels[episode.train_rows]
        counts = np.unique(labels, return_counts=True)[1]
        entries = int(np.minimum(counts, o.cache_shots).sum() if o.cache_shots else counts.sum())
        self.add_cache(entries)
        self.text = self.text_features(episode.class_names)

    def add_cache(self, entries: int) -> None:
        """An empty cache of a size."""
        self.extra["cache"] = Cache(entries, self.backbone.embed_dim).to(self.backbone.device)
        self.cache.constants.copy_(torch.tensor(self.start_at))

    @property
    def cache(self) -> Cache:
        """Keys, labels and constants."""
        cache = self.extra["cache"]
        assert isinstance(cache, Cache)
        return cache

    def resolved(self) -> dict[str, Any]:
        (alpha, beta), (alpha_scale, beta_scale) = self.start_at, self.scales
        return {
            "cache_entries": len(self.cache.labels),
            "cache_alpha": alpha,
            "cache_beta": beta,
            "cache_alpha_scale": alpha_scale,
            "cache_beta_scale": beta_scale,
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """As `Method.load_state_dict`; the cache takes the size of the stored one."""
        stored = state.get("method.cache.keys")
        if stored is not None and len(stored) != len(self.cache.keys):
            trained = self.cache.keys.requires_grad
            self.add_cache(len(stored))
            self.cache.keys.requires_grad_(trained)
        super().load_state_dict(state)

    def finish(self, validation: Validation) -> dict[str, Any]:
        self.fill(validation)
        return self.search(validation)

    @torch.no_grad()
    def fill(self, validation: Validation) -> None:
        """Compute keys and labels."""
        total: Tensor | None = None
        labels, seen = [], 0
        count = len(self.episode.train_rows)
        for batch in validation.training(self.config.cache_views):
            features = self.backbone.encode_image(batch.images).float()
            total = features.new_zeros(count, features.shape[1]) if total is None else total
            # Every pass shows all rows in order; features are averaged before they are normalised.
            total.index_add_(0, (seen + torch.arange(len(batch), device=features.device)) % count, features)
            labels.append(batch.labels[: max(0, count - seen)])
            seen += len(batch)
        assert total is not None
        label = torch.cat(labels)
        require_all_classes(label, self.episode.class_names, self.name)
        chosen = self.draw(label)
        self.cache.keys.copy_(F.normalize(total[chosen], dim=-1))
        self.cache.labels.copy_(label[chosen])

    def draw(self, labels: Tensor) -> Tensor:
        """Positions of the images in the cache: `cache_shots` of each class."""
        parts = []
        for k in range(len(self.episode.class_names)):
            mine = (labels == k).nonzero().squeeze(1)
            order = torch.randperm(len(mine)).to(mine.device)
            parts.append(mine[order[: self.config.cache_shots or len(mine)]])
        return torch.cat(parts)

    @torch.no_grad()
    def search(self, validation: Validation) -> dict[str, Any]:
        """alpha and beta of the highest accuracy on source validation; the first of equals."""
        o = self.config
        image, labels = (
            torch.cat(part)
            for part in zip(
                *((self.image_features(b.images).float(), b.labels) for b in validation.batches()),
                strict=True,
            )
        )
        affinity, plain = image @ self.cache.keys.T, self.scale * image @ self.text.T
        columns = torch.arange(len(self.text), device=image.device)
        alphas, betas = (
            [given] if given is not None else [low + i * (high - low) / steps for i in range(steps)]
            for given, low, high, steps in (
                (o.cache_alpha, 0.1 * self.scales[0] / ALPHA_SCALE, self.scales[0], o.cache_alpha_steps),
                (o.cache_beta, 0.1 * self.scales[1] / BETA_SCALE, self.scales[1], o.cache_beta_steps),
            )
        )
        best = (-1, 0.0, 0.0)
        for beta in betas:
            votes = self.cache.votes(affinity, beta, columns, len(self.text))
            for alpha in alphas:
                right = int(((plain + alpha * votes).argmax(dim=1) == labels).sum())
                best = max(best, (right, alpha, beta), key=lambda found: found[0])
        right, alpha, beta = best
        self.cache.constants.copy_(torch.tensor([alpha, beta]))
        return {"alpha": alpha, "beta": beta, "validation_accuracy": right / len(labels)}

    def logits(self, image: Tensor, text: Tensor, columns: Tensor) -> Tensor:
        """Unit image features [B, d] -> [B, C] for the classes of `text` [C, d]."""
        alpha, beta = self.cache.constants
        image = image.float()
        affinity = image @ self.cache.keys.T
        return self.scale * image @ text.T + alpha * self.cache.votes(affinity, beta, columns, len(text))

    def classifier(self, class_names: Sequence[str], templates: Sequence[str] | None = None) -> Classifier:
        """Logits for any class list; the cache votes for the classes that it knows."""
        text = self.text_features(class_names, templates)
        known = columns_of(self.episode.class_names, class_names)
        columns = torch.tensor([-1 if c is None else c for c in known], device=text.device)

        def logits(images: Tensor) -> Tensor:
            with torch.autocast(images.device.type, enabled=False):
                return self.logits(self.image_features(images), text, columns)

        return logits
