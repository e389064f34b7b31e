"""LP-FT: a linear probe first, then the whole network fine-tuned from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from torch import Tensor

from ..core.errors import UserError
from . import register
from .base import Validation
from .linear_probe import coefficients, fit, regression
from .shared.heads import HeadMethod, encode_all, require_all_classes

if TYPE_CHECKING:
    from ..backbone import Backbone
    from ..core.types import Episode


@dataclass(frozen=True)
class LpFtConfig:
    """Options of the head that fine-tuning starts from."""

    head: Literal["probe", "zero-shot"] = "probe"
    """probe: logistic regression on the frozen features (published). zero-shot: the class prompts' features
    times CLIP's scale, as WiSE-FT."""
    probe_candidates: int = 100
    """Values of C from 1e-7 to 100, evenly in its logarithm, of which source validation chooses."""
    probe_iterations: int = 200
    """Most iterations of L-BFGS per C, starting from the fit before."""

    def __post_init__(self) -> None:
        for name in ("probe_candidates", "probe_iterations"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(self, name)}")


@register("lp-ft")
class LpFt(HeadMethod):
    """Step 1: logistic regression on frozen features, standardised with one mean and one standard deviation
    of the whole feature matrix, which are folded back into weight and bias. Step 2: L = CE(W f(x) + b, y)
    with everything trained, batch norms in evaluation mode.

    A head that fits the features keeps fine-tuning from distorting them. The learning rate is chosen on
    validation from 3e-7 ... 1e-2 in the publication; the default here is one of these.
    """

    summary = "linear probe first, then fine-tuning of tower and head from it"
    source = "Kumar et al., Fine-Tuning can Distort Pretrained Features, ICLR 2022"
    trains = "image tower and linear head"
    Config = LpFtConfig
    published: ClassVar[Mapping[str, Any]] = {
        "lr": 3e-4,
        "weight_decay": 0.0,
        "optimizer": "sgd",
        "momentum": 0.9,
        "schedule": "cosine",
        "batch_size": 64,
    }

    def setup(self, backbone: Backbone, episode: Episode, templates: Sequence[str]) -> None:
        super().setup(backbone, episode, templates)
        self.train_image_tower()
        self.add_head("zero-shot" if self.config.head == "zero-shot" else "random")

    def start(self, validation: Validation) -> None:
        if self.config.head == "zero-shot":
            return
        train, labels = encode_all(self.backbone, validation.training())
        require_all_classes(labels, self.episode.class_names, self.name)
        held_out, wanted = encode_all(self.backbone, validation.batches())
        self.set_head(*self.probe(*(t.cpu().numpy() for t in (train, labels, held_out, wanted))))

    def probe(
        self, train: np.ndarray, labels: np.ndarray, held_out: np.ndarray, wanted: np.ndarray
    ) -> tuple[Tensor, Tensor]:
        """Weight and bias of the best regression, for features that are not standardised."""
        mean, deviation = float(train.mean()), float(train.std())
        train, held_out = (train - mean) / deviation, (held_out - mean) / deviation
        model, best = regression(self.config.probe_iterations), -1.0
        for c in np.logspace(-7, 2, self.config.probe_candidates):
            score = fit(model, float(c), train, labels).score(held_out, wanted)
            if score > best:
                best, (weight, bias) = score, coefficients(model)
        # w (f - mean) / deviation + b = (w / deviation) f + (b - mean sum(w) / deviation)
        weight = weight / deviation
        return weight, bias - mean * weight.sum(dim=1)
