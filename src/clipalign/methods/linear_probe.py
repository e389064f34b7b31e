"""Linear probe: logistic regression on frozen image features."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import UserError
from . import register
from .base import Validation
from .shared.heads import HeadMethod, encode_all, require_all_classes

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

    from ..backbone import Backbone
    from ..core.types import Episode

GRID = (1e6, 1e4, 1e2, 1.0, 1e-2, 1e-4, 1e-6)  # CoOp's candidates for C, in its order


@dataclass(frozen=True)
class LinearProbeConfig:
    """Options of the regression."""

    unit_features: bool = False
    """Normalise features. Off in CoOp's code, on in CLIP_benchmark; the best C differs by orders of
    magnitude."""
    probe_views: int = 0
    """Training views per image; 0 takes the fixed views of evaluation (published: no augmentation)."""
    probe_rounds: int = 8
    """Rounds of bisection of log10 C around the best of 1e6, 1e4, ... 1e-6."""
    probe_iterations: int = 1000
    """Most iterations of L-BFGS per fit."""

    def __post_init__(self) -> None:
        for name, low in (("probe_views", 0), ("probe_rounds", 0), ("probe_iterations", 1)):
            if getattr(self, name) < low:
                raise UserError(
                    f"--{name.replace('_', '-')} must be at least {low}, not {getattr(self, name)}"
                )


@register("linear-probe")
class LinearProbe(HeadMethod):
    """Multinomial logistic regression with an L2 penalty, 1 / C, on features that are not normalised.

    C is the best of a grid on source validation (of equals the largest), refined by bisection of log10 C
    between a tenth and ten times of it, as in CoOp's code (Zhou et al., IJCV 2022). Uses scikit-learn.
    """

    summary = "logistic regression on frozen image features, regularisation chosen on validation"
    source = "Radford et al., ICML 2021, in the form of CoOp's code (Zhou et al., IJCV 2022)"
    trains = "linear head"
    Config = LinearProbeConfig
    uses_templates = False
    iterates = False

    def setup(self, backbone: Backbone, episode: Episode, templates: Sequence[str]) -> None:
        super().setup(backbone, episode, templates)
        self.add_head("random", self.config.unit_features)
        self.extra.requires_grad_(False)

    def resolved(self) -> dict[str, Any]:
        return {"unit_features": self.config.unit_features}

    def finish(self, validation: Validation) -> dict[str, Any]:
        o = self.config
        train = self.table(validation.training(o.probe_views))
        require_all_classes(torch.from_numpy(train[1]), self.episode.class_names, self.name)
        held_out = self.table(validation.batches())
        model = regression(o.probe_iterations)

        def accuracy(c: float) -> float:
            return fit(model, c, *train).score(*held_out)

        best, tried = search(accuracy, o.probe_rounds)
        self.set_head(*coefficients(fit(model, best, *train)))
        return {"C": best, "validation_accuracy": tried[best], "tried": sorted(tried.items())}

    def table(self, batches: Any) -> tuple[np.ndarray, np.ndarray]:
        """Features as the head sees them [n, d], and labels [n]."""
        features, labels = encode_all(self.backbone, batches)
        if self.config.unit_features:
            features = torch.nn.functional.normalize(features, dim=-1)
        return features.cpu().numpy(), labels.cpu().numpy()


def search(accuracy: Callable[[float], float], rounds: int) -> tuple[float, dict[float, float]]:
    """The best C, and the accuracy of every C that was tried.

    Each round keeps the better end of an interval in log10 C (the right one only if it is strictly better)
    and moves the other to the middle. CoOp's code takes the end kept last; here that is so unless another C
    was better.
    """
    tried: dict[float, float] = {}

    def value(c: float) -> float:
        if c not in tried:
            tried[c] = accuracy(c)
        return tried[c]

    for c in reversed(GRID):  # from strong to weak penalties, each fit starting where the last one ended
        value(c)
    peak = max(GRID, key=value)  # the first of equals
    left, right, kept = math.log10(peak) - 1, math.log10(peak) + 1, peak
    for _ in range(rounds):
        middle = (left + right) / 2
        if value(10**left) < value(10**right):
            left, kept = middle, 10**right
        else:
            right, kept = middle, 10**left
    return max((kept, *tried), key=value), tried


def regression(iterations: int) -> LogisticRegression:
    """scikit-learn's, starting each fit from the one before; the problem is convex, so that only saves time."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=iterations, warm_start=True, random_state=0)


def fit(model: LogisticRegression, c: float, features: np.ndarray, labels: np.ndarray) -> LogisticRegression:
    """Fit at one C; stopping at the iteration limit is part of the recipe and not worth a warning."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.set_params(C=c).fit(features, labels)


def coefficients(model: LogisticRegression) -> tuple[Tensor, Tensor]:
    """Weight [C, d] and bias [C] of a softmax; two classes share one row in scikit-learn."""
    weight, bias = torch.from_numpy(model.coef_).float(), torch.from_numpy(model.intercept_).float()
    if len(weight) == 1:
        return torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    return weight, bias
