"""Linear probe: logistic regression on frozen image features."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.config import Options, facts
from . import register
from .base import Validation
from .shared.heads import HeadMethod, encode_all, require_all_classes

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

    from ..backbone import Backbone
    from ..core.types import Batch, Episode

GRID = (1e6, 1e4, 1e2, 1.0, 1e-2, 1e-4, 1e-6)  # CoOp's candidates for C, in its order


@dataclass(frozen=True)
class LinearProbeConfig(Options):
    """Options of the regression."""

    unit_features: bool = field(default=False, metadata=facts(reason="CoOp"))
    """L2-normalise features. Off in CoOp's code, on in CLIP_benchmark; the best C differs by orders of
    magnitude."""
    probe_views: int = field(default=0, metadata=facts(unit="VIEWS", at_least=0, reason="CoOp"))
    """Augmented views per image; 0: none. With 0 the fixed views of evaluation are encoded."""
    probe_rounds: int = field(default=8, metadata=facts(unit="COUNT", at_least=0, reason="CoOp"))
    """Bisection rounds of log10 C. They start around the best of 1e6, 1e4, ..., 1e-6."""
    probe_iterations: int = field(default=1000, metadata=facts(unit="COUNT", at_least=1, reason="CoOp"))
    """L-BFGS iterations per fit, at most."""


@register("linear-probe")
class LinearProbe(HeadMethod[LinearProbeConfig]):
    """Multinomial logistic regression with L2 penalty 1 / C on features that are not normalised.

    C is the best of a grid on source validation (the largest on a tie), refined by bisection of log10 C within a factor
    of ten on either side, as in CoOp's code (Zhou et al., IJCV 2022). The solver is scikit-learn's.
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

    def resolved(self) -> dict[str, object]:
        return {"unit_features": self.config.unit_features}

    def finish(self, validation: Validation) -> dict[str, object]:
        """Fit the head with the C of the best validation accuracy."""
        o = self.config
        train = self.encode(validation.training(o.probe_views))
        require_all_classes(torch.from_numpy(train[1]), self.episode.class_names, self.name)
        held_out = self.encode(validation.batches())
        model = regression(o.probe_iterations)

        def accuracy(c: float) -> float:
            return fit(model, c, *train).score(*held_out)

        best, tried = search(accuracy, o.probe_rounds)
        self.set_head(*coefficients(fit(model, best, *train)))
        return {"C": best, "validation_accuracy": tried[best], "tried": sorted(tried.items())}

    def encode(self, batches: Iterable[Batch]) -> tuple[np.ndarray, np.ndarray]:
        """Return the features [n, d] that the head receives, and labels [n]."""
        features, labels = encode_all(self.backbone, batches)
        if self.config.unit_features:
            features = F.normalize(features, dim=-1)
        return features.cpu().numpy(), labels.cpu().numpy()


def search(accuracy: Callable[[float], float], rounds: int) -> tuple[float, dict[float, float]]:
    """Maximise validation accuracy over C: the grid, then bisection of log10 C around its best.

    Each round keeps the better end of an interval in log10 C (the right end only if it is strictly better) and moves
    the other end to the middle. CoOp's code returns the end kept last; this returns it unless another C was better.

    Args:
        accuracy: validation accuracy of a C.
        rounds: bisection rounds.

    Returns:
        The best C, and the accuracy of every C tried.
    """
    tried: dict[float, float] = {}

    def value(c: float) -> float:
        if c not in tried:
            tried[c] = accuracy(c)
        return tried[c]

    for c in reversed(GRID):  # strong penalties first: each fit starts from the solution of the one before
        value(c)
    peak = max(GRID, key=value)  # the first, that is the largest, on a tie
    left, right, kept = math.log10(peak) - 1, math.log10(peak) + 1, peak
    for _ in range(rounds):
        middle = (left + right) / 2
        if value(10**left) < value(10**right):
            left, kept = middle, 10**right
        else:
            right, kept = middle, 10**left
    return max((kept, *tried), key=value), tried


def regression(iterations: int) -> LogisticRegression:
    """Return scikit-learn's model; each fit starts from the one before, which only saves time (convex problem)."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=iterations, warm_start=True, random_state=0)


def fit(model: LogisticRegression, c: float, features: np.ndarray, labels: np.ndarray) -> LogisticRegression:
    """Fit with one C. The iteration limit is part of the recipe, so reaching it is not reported."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.set_params(C=c).fit(features, labels)


def coefficients(model: LogisticRegression) -> tuple[Tensor, Tensor]:
    """Return weight [C, d] and bias [C] of a softmax; for two classes scikit-learn stores one row, of a sigmoid."""
    weight, bias = torch.from_numpy(model.coef_).float(), torch.from_numpy(model.intercept_).float()
    if len(weight) == 1:  # sigmoid(z) = softmax(-z / 2, z / 2)
        return torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    return weight, bias
