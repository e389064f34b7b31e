from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from clipalign.backbone import Backbone
from clipalign.core.errors import UserError
from clipalign.core.types import Batch, Episode
from clipalign.data.sources.folder import ImageFolder
from clipalign.methods.coral import mean_distance
from clipalign.protocols import build_episode
from tests.helpers.methods import batch_of, image_weights, ready, train


@pytest.fixture
def episode(squares: ImageFolder) -> Episode:
    return build_episode("domain-shift", squares, "grey", 0)


def test_with_weight_zero_it_is_erm_step_by_step(tiny: Backbone, episode: Episode) -> None:
    ours, theirs = ready("coral", tiny, episode, coral_weight=0.0), ready("erm", tiny, episode)
    assert train(ours) == pytest.approx(train(theirs), rel=1e-5)
    torch.testing.assert_close(image_weights(ours), image_weights(theirs), atol=1e-6, rtol=1e-5)


def test_with_weight_zero_and_a_linear_head_it_is_domainbeds_erm(tiny: Backbone, episode: Episode) -> None:
    ours = ready("coral", tiny, episode, coral_weight=0.0, head="random")
    theirs = ready("erm-linear-head", tiny, episode)
    assert train(ours) == pytest.approx(train(theirs), rel=1e-5)


@pytest.mark.parametrize("features", ["raw", "unit"])
def test_the_loss_is_its_equation(tiny: Backbone, squares: ImageFolder, features: Any) -> None:
    episode = build_episode("base-to-new", squares, None, 0)  # three source domains
    method = ready("coral", tiny, episode, coral_weight=2.0, coral_features=features)
    batch = batch_of(episode, tiny, 11)
    assert len(batch.domains.unique()) == 3
    terms = method.loss(batch)
    with torch.no_grad():
        raw = method.backbone.encode_image(batch.images)
        z = method.scale * F.normalize(raw, dim=-1) @ method.text.T
        f = (F.normalize(raw, dim=-1) if features == "unit" else raw).double().numpy()
    ce, total, pairs = 0.0, 0.0, 0
    for i in range(3):
        mine = (batch.domains == i).numpy()
        ce += F.cross_entropy(z[mine], batch.labels[mine]).item() / 3
        for j in range(i + 1, 3):
            theirs = (batch.domains == j).numpy()
            difference = np.cov(f[mine], rowvar=False) - np.cov(f[theirs], rowvar=False)
            shift = f[mine].mean(0) - f[theirs].mean(0)
            total += (shift**2).mean() + (difference**2).mean()
            pairs += 1
    assert pairs == 3
    assert terms["loss_ce"].item() == pytest.approx(ce, rel=1e-5)
    assert terms["loss_coral"].item() == pytest.approx(2 * total / 3, rel=1e-4)


def test_it_pulls_domains_together(tiny: Backbone, episode: Episode) -> None:
    generator = torch.Generator().manual_seed(0)
    groups = [torch.randn(9, 5, generator=generator) * (1 + i) + i for i in range(3)]
    same = [groups[0], groups[0].clone(), groups[0].clone()]
    assert float(mean_distance(same)) == 0 < float(mean_distance(groups))
    method = ready("coral", tiny, episode, coral_weight=30.0)
    before = method.loss(batch_of(episode, tiny, 16))["coral"].item()
    train(method, steps=10, lr=0.02)
    assert method.loss(batch_of(episode, tiny, 16))["coral"].item() < before


def test_one_source_domain_or_one_image_of_it_is_refused(tiny: Backbone, squares: ImageFolder) -> None:
    episode = build_episode("domain-shift", squares, "grey", 0)
    batch = batch_of(episode, tiny, 4)
    single = Batch(batch.images[:3], batch.labels[:3], batch.domains[:3], batch.rows[:3])
    with pytest.raises(UserError, match="raise --batch-size"):
        ready("coral", tiny, episode).loss(single)
    from dataclasses import replace

    rows = episode.train_rows[squares.domains[episode.train_rows] == episode.train_domains[0]]
    with pytest.raises(UserError, match="trains on one only"):
        ready("coral", tiny, replace(episode, train_rows=rows))
