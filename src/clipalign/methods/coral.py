"""CORAL: features of all source domains shall have the same mean and covariance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import UserError
from . import register
from .shared.heads import DOMAINBED, TrainedHeadMethod

if TYPE_CHECKING:
    from ..backbone import Backbone
    from ..core.types import Batch, Episode


@dataclass(frozen=True)
class CoralConfig:
    """Options of the penalty and of the classifier."""

    coral_weight: float = 1.0
    """gamma (DomainBed: 1; its random search: 0.1 to 10); 0 turns it off."""
    coral_features: Literal["raw", "unit"] = "raw"
    """Which features are aligned: as the tower gives them (DomainBed), or of length 1, whose entries are
    about 1 / sqrt(d), so that the weight must be 1e4 to 1e5 times larger for the same effect."""
    head: Literal["text", "random", "zero-shot"] = "text"
    """text: the frozen class prompts, as in erm, for any class list. random: DomainBed's linear head.
    zero-shot: a linear head that starts from the class prompts."""
    unit_features: bool | None = None
    """Normalise features for a linear head. Default: not for a random one, yes for a zero-shot one."""

    def __post_init__(self) -> None:
        if not self.coral_weight >= 0:
            raise UserError(f"--coral-weight must be at least 0, not {self.coral_weight:g}")


@register("coral")
class Coral(TrainedHeadMethod):
    """L = 1/D sum_i CE_i + gamma 2 / (D (D - 1)) sum_{i<j} P_ij over the D source domains.

    P_ij = mean over d of (m_i - m_j)² + mean over d x d of (K_i - K_j)², with mean m_i and covariance K_i
    (divisor n_i - 1) of the features of domain i: DomainBed's form, which has a term of the means and means
    over entries, where Deep CORAL has the covariances alone, over 4 d².
    """

    summary = "equal mean and covariance of features in all source domains"
    source = "Sun and Saenko, Deep CORAL, ECCV 2016 workshops; in the form of DomainBed (ICLR 2021)"
    trains = "image tower; linear head if asked for"
    Config = CoralConfig
    mean_over_rows = False
    published: ClassVar[Mapping[str, Any]] = DOMAINBED

    def setup(self, backbone: Backbone, episode: Episode, templates: Sequence[str]) -> None:
        super().setup(backbone, episode, templates)
        if len(episode.train_rows) and len(episode.train_domains) < 2:
            raise UserError(
                f"--method coral aligns source domains; --protocol {episode.protocol} on "
                f"{episode.source.name} trains on one only"
            )

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        features = self.backbone.encode_image(batch.images).float()
        losses = F.cross_entropy(self.logits(features), batch.labels, reduction="none")
        parts = [batch.domains == d for d in batch.domains.unique()]
        terms = {"loss_ce": torch.stack([losses[part].mean() for part in parts]).mean()}
        if self.config.coral_weight:
            if self.config.coral_features == "unit":
                features = F.normalize(features, dim=-1)
            distance = mean_distance([features[part] for part in parts])
            terms |= {"coral": distance, "loss_coral": self.config.coral_weight * distance}
        return terms


def mean_distance(groups: Sequence[Tensor]) -> Tensor:
    """Mean of P_ij over pairs of domains.

    Args:
        groups: features of each domain, [n_i, d].

    Raises:
        UserError: a domain with fewer than two images.
    """
    if min(len(group) for group in groups) < 2:
        raise UserError(
            "--method coral needs two images of each source domain in a batch: raise --batch-size"
        )
    with torch.autocast(groups[0].device.type, enabled=False):
        means = [group.mean(dim=0) for group in groups]
        covariances = [
            (group - mean).T @ (group - mean) / (len(group) - 1)
            for group, mean in zip(groups, means, strict=True)
        ]
        pairs = [
            (means[i] - means[j]).square().mean() + (covariances[i] - covariances[j]).square().mean()
            for i, j in combinations(range(len(groups)), 2)
        ]
        return torch.stack(pairs).mean() if pairs else groups[0].new_zeros(())
