"""CORAL: match mean and covariance of the image features across source domains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.config import facts
from ..core.errors import UserError
from ..core.full_precision import full_precision
from ..core.search import LogUniform, SearchSpace
from ..losses import unit_features
from . import register
from .shared.heads import HeadConfig, HeadKind, TrainedHeadMethod

if TYPE_CHECKING:
    from ..backbone import Backbone
    from ..core.types import Batch, Episode


@dataclass(frozen=True)
class CoralConfig(HeadConfig):
    """Options of the penalty and of the classifier."""

    head: HeadKind = "text"
    """Classifier: text, random or zero-shot. text: the frozen class prompts, for any class list; random:
    DomainBed's linear layer; zero-shot: linear layer initialised from the class prompts."""
    coral_weight: float = field(default=1.0, metadata=facts(unit="WEIGHT", at_least=0, reason="DomainBed"))
    """Weight of the penalty; 0: none. DomainBed searches 0.1 to 10."""
    coral_features: Literal["raw", "unit"] = field(default="raw", metadata=facts(reason="DomainBed"))
    """Features to align: raw or unit. unit: L2-normalised; their entries are about 1 / sqrt(d), so the weight must
    be 1e4 to 1e5 times larger for the same effect."""


@register("coral")
class Coral(TrainedHeadMethod[CoralConfig]):
    """L = 1/D sum_i CE_i + gamma 2 / (D (D - 1)) sum_{i<j} P_ij over the D source domains.

    P_ij = mean over d of (m_i - m_j)² + mean over d x d of (K_i - K_j)², with mean m_i and covariance K_i (divisor
    n_i - 1) of the features of domain i. This is DomainBed's form; Deep CORAL has no term of the means and divides the
    squared Frobenius norm of the covariances by 4 d².
    """

    summary = "equal mean and covariance of features in all source domains"
    source = "Sun and Saenko, Deep CORAL, ECCV 2016 workshops; in the form of DomainBed (ICLR 2021)"
    trains = "image tower; linear head with --head random or zero-shot"
    trains_image_tower = True
    Config = CoralConfig
    search: ClassVar[SearchSpace] = {"coral_weight": LogUniform(0.1, 10)}  # DomainBed
    mean_over_rows = False

    def setup(self, backbone: Backbone, episode: Episode, templates: Sequence[str]) -> None:
        super().setup(backbone, episode, templates)
        if len(episode.train_rows) and len(episode.train_domains) < 2:
            raise UserError(
                f"--method coral aligns source domains; --protocol {episode.protocol} on "
                f"{episode.source.name} trains on one only"
            )

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        features = self.backbone.encode_image(batch.images).float()  # [B, d]
        losses = F.cross_entropy(self.head_logits(features), batch.labels, reduction="none")  # [B]
        domains = [batch.domains == d for d in batch.domains.unique()]  # D x [B] bool
        # The mean over domains, not over images: a domain with fewer images counts as much as the others.
        terms = {"loss_ce": torch.stack([losses[rows].mean() for rows in domains]).mean()}
        if self.config.coral_weight:
            if self.config.coral_features == "unit":
                features = unit_features(features)
            distance = mean_distance(*(features[rows] for rows in domains))
            terms |= {"coral": distance, "loss_coral": self.config.coral_weight * distance}
        return terms


@full_precision
def mean_distance(*groups: Tensor) -> Tensor:
    """Return the mean of P_ij over pairs of domains, a scalar; 0 for one domain.

    Args:
        groups: features of each domain, [n_i, d].

    Raises:
        UserError: a domain has fewer than two images.
    """
    if min(len(group) for group in groups) < 2:
        raise UserError(
            "--method coral needs two images of each source domain in a batch: increase --batch-size"
        )
    means = [group.mean(dim=0) for group in groups]  # D x [d]
    centred = [group - mean for group, mean in zip(groups, means, strict=True)]  # D x [n_i, d]
    covariances = [c.T @ c / (len(c) - 1) for c in centred]  # D x [d, d]
    pairs = [
        (means[i] - means[j]).square().mean() + (covariances[i] - covariances[j]).square().mean()
        for i, j in combinations(range(len(groups)), 2)
    ]
    return torch.stack(pairs).mean() if pairs else groups[0].new_zeros(())
