from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from clipalign.backbone import Backbone
from clipalign.core.types import Episode
from clipalign.data.sources.folder import ImageFolder
from clipalign.protocols import build_episode
from tests.helpers.methods import batch_of, image_weights, ready, source_validation, train


@pytest.fixture
def episode(squares: ImageFolder) -> Episode:
    return build_episode("domain-shift", squares, "grey", 0)


def test_the_probe_is_the_best_of_the_path_with_the_standardisation_folded_back(
    tiny: Backbone, episode: Episode
) -> None:
    method = ready("lp-ft", tiny, episode, probe_candidates=8)
    rng = np.random.default_rng(0)
    centres = 2 * rng.normal(size=(4, 6))
    labels, wanted = np.arange(80) % 4, np.arange(40) % 4
    train_ = (5 + 3 * (centres[labels] + 2 * rng.normal(size=(80, 6)))).astype(np.float32)
    held_out = (5 + 3 * (centres[wanted] + 2 * rng.normal(size=(40, 6)))).astype(np.float32)
    weight, bias = method.probe(train_, labels, held_out, wanted)

    mean, deviation = train_.mean(), train_.std()
    fits = [
        LogisticRegression(C=c, max_iter=5000, tol=1e-8).fit((train_ - mean) / deviation, labels)
        for c in np.logspace(-7, 2, 8)
    ]
    scores = [fit.score((held_out - mean) / deviation, wanted) for fit in fits]
    best = fits[int(np.argmax(scores))]
    ours = (torch.from_numpy(held_out) @ weight.T + bias).softmax(-1).numpy()
    assert np.abs(ours - best.predict_proba((held_out - mean) / deviation)).max() < 0.02


def test_fine_tuning_starts_from_the_probe_and_trains_everything(tiny: Backbone, episode: Episode) -> None:
    method = ready("lp-ft", tiny, episode, probe_candidates=5)
    before = image_weights(method)
    rows = source_validation(episode, tiny)
    random_ = rows.measure(method.classifier(episode.class_names))["validation_loss"]
    method.start(rows)
    probed = rows.measure(method.classifier(episode.class_names))["validation_loss"]
    assert probed < random_ and torch.equal(before, image_weights(method))
    head = method.linear_head.weight.clone()
    train(method, lr=1e-2)
    assert not torch.equal(before, image_weights(method)) and not torch.equal(head, method.linear_head.weight)


def test_the_zero_shot_head_needs_no_probe(tiny: Backbone, episode: Episode) -> None:
    method = ready("lp-ft", tiny, episode, head="zero-shot")
    method.start(source_validation(episode, tiny))
    images = batch_of(episode, tiny).images
    with torch.no_grad():
        wanted = ready("zeroshot", tiny, episode).classifier(episode.class_names)(images)
        assert torch.allclose(method.classifier(episode.class_names)(images), wanted, atol=1e-5)
