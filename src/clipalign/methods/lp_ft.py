"""LP-FT: fit a linear probe first, then fine-tune the whole network from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from torch import Tensor

from ..core.config import Options, facts
from . import register
from .base import Validation
from .linear_probe import coefficients, fit, regression
from .shared.heads import HeadMethod, encode_all, require_all_classes

if TYPE_CHECKING:
    from ..backbone import Backbone
    from ..core.types import Episode


@dataclass(frozen=True)
class LpFtConfig(Options):
    """Options of the head that fine-tuning starts from."""

    head: Literal["probe", "zero-shot"] = "probe"
    """Initial head: probe or zero-shot. probe: logistic regression on frozen features (published); zero-shot: text
    features of the class prompts times the logit scale, as WiSE-FT."""
    probe_candidates: int = field(default=100, metadata=facts(unit="COUNT", at_least=1, reason="LP-FT"))
    """Values of C to try on validation. They are evenly spaced in log C between 1e-7 and 100."""
    probe_iterations: int = field(default=200, metadata=facts(unit="COUNT", at_least=1, reason="LP-FT"))
    """L-BFGS iterations per C, at most. Each fit starts from the one before."""


@register("lp-ft")
class LpFt(HeadMethod[LpFtConfig]):
    """Step 1: logistic regression on frozen features. Step 2: L = CE(W f + b, y), everything trained.

    Step 1 standardises features with one mean and one standard deviation of the whole feature matrix, folded back into
    weight and bias. In step 2 batch norms stay in evaluation mode. A head that fits the features keeps fine-tuning from
    distorting them. The publication chooses the learning rate on validation between 3e-7 and 1e-2; the default here is
    one of its candidates.
    """

    summary = "linear probe first, then fine-tuning of tower and head from it"
    source = "Kumar et al., Fine-Tuning can Distort Pretrained Features, ICLR 2022"
    trains = "image tower and linear head"
    trains_image_tower = True
    Config = LpFtConfig

    def setup(self, backbone: Backbone, episode: Episode, templates: Sequence[str]) -> None:
        super().setup(backbone, episode, templates)
        self.train_image_tower()
        self.add_head("zero-shot" if self.config.head == "zero-shot" else "random")

    def start(self, validation: Validation) -> None:
        """Fit the head to the frozen features."""
        if self.config.head == "zero-shot":
            return
        features, labels = encode_all(self.backbone, validation.training())
        require_all_classes(labels, self.episode.class_names, self.name)
        held_out = encode_all(self.backbone, validation.batches())
        self.set_head(*self.probe(*(tensor.cpu().numpy() for tensor in (features, labels, *held_out))))

    def probe(
        self, features: np.ndarray, labels: np.ndarray, held_out: np.ndarray, held_out_labels: np.ndarray
    ) -> tuple[Tensor, Tensor]:
        """Return weight [C, d] and bias [C] of the best regression, for features as the tower gives them.

        Args:
            features, labels: [n, d] and [n], training.
            held_out, held_out_labels: [m, d] and [m], validation.
        """
        mean, deviation = float(features.mean()), float(features.std())
        features, held_out = (features - mean) / deviation, (held_out - mean) / deviation
        model, best = regression(self.config.probe_iterations), -1.0
        for c in np.logspace(-7, 2, self.config.probe_candidates):
            score = fit(model, float(c), features, labels).score(held_out, held_out_labels)
            if score > best:
                best, (weight, bias) = score, coefficients(model)
        # w (f - mean) / deviation + b = (w / deviation) f + (b - mean sum(w) / deviation)
        weight = weight / deviation
        return weight, bias - mean * weight.sum(dim=1)
