from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from clipalign.backbone import Backbone
from clipalign.core.errors import UserError
from clipalign.core.types import Episode
from clipalign.data.sources.folder import ImageFolder
from clipalign.methods.linear_probe import GRID, coefficients, search
from clipalign.protocols import build_episode
from tests.helpers.methods import ready, source_validation


@pytest.fixture
def episode(squares: ImageFolder) -> Episode:
    return build_episode("domain-shift", squares, "grey", 0)


def test_it_is_scikit_learns_regression_at_the_chosen_c(tiny: Backbone, episode: Episode) -> None:
    method = ready("linear-probe", tiny, episode)
    rows = source_validation(episode, tiny)
    chosen = method.finish(rows)
    parts = [(method.backbone.encode_image(b.images).detach(), b.labels) for b in rows.training()]
    features, labels = torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
    # Another start and a stricter end than the method's own: the problem is convex.
    peer = LogisticRegression(C=chosen["C"], max_iter=20000, tol=1e-8).fit(features.numpy(), labels.numpy())

    def objective(weight: torch.Tensor, bias: torch.Tensor) -> float:
        loss = F.cross_entropy(features @ weight.T + bias, labels, reduction="sum")
        return float(loss + weight.square().sum() / (2 * chosen["C"]))

    head = method.linear_head
    wanted = objective(*coefficients(peer))
    assert objective(head.weight.detach(), head.bias.detach()) < wanted + 0.02
    assert objective(torch.zeros_like(head.weight), torch.zeros(4)) > wanted + 10
    images = torch.cat([b.images for b in rows.batches()])
    with torch.no_grad():
        ours = method.classifier(episode.class_names)(images).argmax(-1).numpy()
        assert (ours == peer.predict(method.backbone.encode_image(images).numpy())).all()
    assert chosen["validation_accuracy"] == rows.accuracy(method.classifier(episode.class_names))
    assert chosen["validation_accuracy"] == max(accuracy for _, accuracy in chosen["tried"])
    assert method.parameters() == []


def test_normalised_features_and_drawn_views_are_options(tiny: Backbone, episode: Episode) -> None:
    method = ready("linear-probe", tiny, episode, unit_features=True, probe_views=2, probe_rounds=0)
    rows = source_validation(episode, tiny)
    features, labels = method.table(rows.training(2))
    assert len(features) == 2 * len(episode.train_rows) == len(labels)
    assert np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    chosen = method.finish(rows)
    assert chosen["C"] in GRID
    images = next(rows.batches()).images
    with torch.no_grad():
        scaled = method.linear_head(3 * method.backbone.encode_image(images))
        assert torch.allclose(scaled, method.classifier(episode.class_names)(images), atol=1e-4)


def literal_search(accuracy: Callable[[float], float], rounds: int) -> float:
    """CoOp's bisection, written out: log10 C, both ends measured anew each round."""
    values = [accuracy(c) for c in GRID]
    peak = GRID[values.index(max(values))]
    left, right = 1e-1 * peak, 1e1 * peak
    for _ in range(rounds):
        at_left, at_right = accuracy(left), accuracy(right)
        if at_left < at_right:
            left, final = 10 ** (0.5 * (math.log10(left) + math.log10(right))), right
        else:
            right, final = 10 ** (0.5 * (math.log10(left) + math.log10(right))), left
    return final


@pytest.mark.parametrize("peak", [-5.3, -0.4, 1.7, 5.9])
@pytest.mark.parametrize("rounds", [1, 3, 8])
def test_the_search_bisects_towards_the_better_end(peak: float, rounds: int) -> None:
    calls: list[float] = []

    def accuracy(c: float) -> float:
        calls.append(c)
        return -abs(math.log10(c) - peak)

    best, tried = search(accuracy, rounds)
    assert tried[best] == max(tried.values())
    wanted = literal_search(accuracy, rounds)
    assert any(c == pytest.approx(wanted, rel=1e-6) for c in tried)
    assert best == pytest.approx(wanted, rel=1e-6) or accuracy(best) > accuracy(wanted)


def test_nothing_is_fitted_twice_and_of_equals_the_largest_c_wins() -> None:
    calls: list[float] = []

    def flat(c: float) -> float:
        calls.append(c)
        return 0.5

    best, tried = search(flat, 0)
    assert best == 1e6 and len(calls) == len(set(calls)) == len(tried) == len(GRID)
    best, _ = search(flat, 8)
    # Two ends, then a middle per round but the first, of which one (1e6) is on the grid.
    assert best == 1e5 and len(calls) == 2 * len(GRID) + 2 + 7 - 1


def test_two_classes_become_a_softmax() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)).astype(np.float32), rng.integers(0, 2, 40)
    model = LogisticRegression().fit(x, y)
    weight, bias = coefficients(model)
    ours = (torch.from_numpy(x) @ weight.T + bias).softmax(-1)
    assert np.allclose(ours.numpy(), model.predict_proba(x), atol=1e-6)


def test_a_class_without_images_is_named(tiny: Backbone, episode: Episode) -> None:
    labels = episode.source.labels[episode.train_rows]
    gap = replace(episode, train_rows=episode.train_rows[labels != 1])
    with pytest.raises(UserError, match=f'linear-probe .* "{episode.class_names[1]}" has none'):
        ready("linear-probe", tiny, gap).finish(source_validation(gap, tiny))
