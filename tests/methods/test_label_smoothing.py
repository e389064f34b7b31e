from __future__ import annotations

import math

import pytest
import torch

from clipalign import losses
from clipalign.backbone import Backbone
from clipalign.core.errors import UserError
from clipalign.core.types import Episode
from clipalign.data.sources.folder import ImageFolder
from clipalign.protocols import build_episode
from tests.helpers.methods import batch_of, image_weights, ready, train


@pytest.fixture
def episode(squares: ImageFolder) -> Episode:
    return build_episode("domain-shift", squares, "grey", 0)


def test_without_smoothing_it_is_erm_step_by_step(tiny: Backbone, episode: Episode) -> None:
    ours, theirs = ready("label-smoothing", tiny, episode, epsilon=0.0), ready("erm", tiny, episode)
    assert train(ours) == train(theirs)
    assert torch.equal(image_weights(ours), image_weights(theirs))


def test_the_loss_is_its_equation(tiny: Backbone, episode: Episode) -> None:
    method, batch = ready("label-smoothing", tiny, episode, epsilon=0.3), batch_of(episode, tiny)
    with torch.no_grad():
        z = method.classifier(episode.class_names)(batch.images).double()
    total = 0.0
    for row, label in zip(z.tolist(), batch.labels.tolist(), strict=True):
        log_p = [value - math.log(sum(math.exp(v) for v in row)) for value in row]
        total += -0.7 * log_p[label] - 0.3 / 4 * sum(log_p)
    found = method.loss(batch)["loss_ce"].item()
    assert found == pytest.approx(total / len(batch), rel=1e-5)
    targets = losses.uniform_targets(4, 0.3)[batch.labels]
    assert found == pytest.approx(float(losses.soft_cross_entropy(z.float(), targets)), rel=1e-5)


def test_epsilon_is_a_share() -> None:
    from clipalign.methods.label_smoothing import LabelSmoothingConfig

    with pytest.raises(UserError, match="--epsilon"):
        LabelSmoothingConfig(epsilon=1.5)
