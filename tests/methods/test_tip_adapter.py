from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from clipalign.backbone import Backbone
from clipalign.core.errors import UserError
from clipalign.core.types import Episode
from clipalign.data.sources.folder import ImageFolder
from clipalign.methods.tip_adapter import TipAdapterConfig
from clipalign.protocols import build_episode
from tests.helpers.methods import batch_of, ready, source_validation, train

FAST = {"cache_views": 2, "cache_alpha_steps": 4, "cache_beta_steps": 5}


@pytest.fixture
def episode(squares: ImageFolder) -> Episode:
    return build_episode("domain-shift", squares, "grey", 0)


def filled(name: str, backbone: Backbone, episode: Episode, **options: Any) -> Any:
    method = ready(name, backbone, episode, **{**FAST, **options})
    method.finish(source_validation(episode, backbone)) if name == "tip-adapter" else method.start(
        source_validation(episode, backbone)
    )
    return method


@pytest.mark.parametrize("names", [None, ("red square", "snow", "blue-square")])
def test_at_alpha_zero_it_is_zero_shot(tiny: Backbone, episode: Episode, names: Any) -> None:
    method, zeroshot = filled("tip-adapter", tiny, episode, cache_alpha=0.0), ready("zeroshot", tiny, episode)
    images = batch_of(episode, tiny).images
    with torch.no_grad():
        ours, theirs = (m.classifier(names or episode.class_names)(images) for m in (method, zeroshot))
    assert torch.equal(ours, theirs)


def test_keys_are_means_of_features_before_normalisation(tiny: Backbone, episode: Episode) -> None:
    method = filled("tip-adapter", tiny, episode, cache_views=3, cache_shots=0)
    count = len(episode.train_rows)
    images = torch.cat([b.images for b in source_validation(episode, tiny).training(3)])
    labels = torch.cat([b.labels for b in source_validation(episode, tiny).training(3)])
    assert len(images) == 3 * count and not torch.equal(images[:count], images[count : 2 * count])
    assert torch.equal(labels[:count], labels[count : 2 * count])
    with torch.no_grad():
        features = tiny.encode_image(images)
    wanted = {}
    for i in range(count):
        mean = (features[i] + features[count + i] + features[2 * count + i]) / 3
        wanted[i] = mean / mean.norm()
    keys = method.cache.keys
    assert len(keys) == count
    for i, key in wanted.items():
        nearest = int((keys @ key).argmax())
        assert torch.allclose(keys[nearest], key, atol=1e-5)
        assert method.cache.labels[nearest] == labels[i]


def test_logits_are_their_equation_and_new_classes_get_no_votes(tiny: Backbone, episode: Episode) -> None:
    method = filled("tip-adapter", tiny, episode, cache_alpha=2.0, cache_beta=5.0)
    images, names = batch_of(episode, tiny).images, ("snow", episode.class_names[2], episode.class_names[0])
    with torch.no_grad():
        found = method.classifier(names)(images)
        image = F.normalize(tiny.encode_image(images), dim=-1)
        text = method.text_features(names)
    keys, labels, s = method.cache.keys, method.cache.labels.tolist(), float(method.scale)
    for b in range(len(images)):
        for c, trained in enumerate((None, 2, 0)):
            z = s * float(image[b] @ text[c])
            for key, label in zip(keys, labels, strict=True):
                if label == trained:
                    z += 2.0 * math.exp(-5.0 * (1 - float(image[b] @ key)))
            assert found[b, c].item() == pytest.approx(z, abs=1e-3)


def test_alpha_and_beta_are_the_best_of_the_grid_on_validation(tiny: Backbone, episode: Episode) -> None:
    options = {"cache_alpha_scale": 40.0, "cache_beta_scale": 30.0}
    method = ready("tip-adapter", tiny, episode, **FAST, **options)
    rows = source_validation(episode, tiny)
    chosen = method.finish(rows)
    alphas = [40 * (0.1 / 3) + i * 40 * (1 - 0.1 / 3) / 4 for i in range(4)]
    betas = [30 * (0.1 / 7) + i * 30 * (1 - 0.1 / 7) / 5 for i in range(5)]
    scores = {}
    for beta in betas:
        for alpha in alphas:
            method.cache.constants.copy_(torch.tensor([alpha, beta]))
            scores[alpha, beta] = rows.accuracy(method.classifier(episode.class_names))
    assert chosen["validation_accuracy"] == pytest.approx(max(scores.values()))
    near = min(scores, key=lambda k: abs(k[0] - chosen["alpha"]) + abs(k[1] - chosen["beta"]))
    assert near == pytest.approx((chosen["alpha"], chosen["beta"]))
    assert scores[near] == max(scores.values()) and len(set(scores.values())) > 1


def test_constants_go_with_the_scale(tiny: Backbone, episode: Episode) -> None:
    for scale in (100.0, 25.0):
        with torch.no_grad():
            tiny.model.logit_scale.fill_(math.log(scale))
        found = ready("tip-adapter", tiny, episode).resolved()
        wanted = {"alpha": 1.17, "beta": 1.0, "alpha_scale": 3.0, "beta_scale": 7.0}
        for name, value in wanted.items():
            assert found[f"cache_{name}"] == pytest.approx(value * scale / 100, rel=1e-5)


def test_shots_limit_the_cache_and_are_drawn(tiny: Backbone, episode: Episode) -> None:
    method = filled("tip-adapter", tiny, episode, cache_shots=2)
    assert torch.bincount(method.cache.labels).tolist() == [2, 2, 2, 2]
    whole = filled("tip-adapter", tiny, episode)
    assert len(whole.cache.labels) == len(episode.train_rows)
    state = method.state_dict()
    whole.load_state_dict(state)  # a stored cache brings its size along
    images = batch_of(episode, tiny).images
    with torch.no_grad():
        pair = [m.classifier(episode.class_names)(images) for m in (method, whole)]
    assert torch.equal(*pair)


def test_a_cache_with_a_class_missing_is_refused(tiny: Backbone, episode: Episode) -> None:
    labels = episode.source.labels[episode.train_rows]
    gap = replace(episode, train_rows=episode.train_rows[labels != 3])
    with pytest.raises(UserError, match=f'"{episode.class_names[3]}" has none'):
        filled("tip-adapter", tiny, gap)
    with pytest.raises(UserError, match="--cache-views"):
        TipAdapterConfig(cache_views=0)


def test_it_does_not_iterate(tiny: Backbone, episode: Episode) -> None:
    method = filled("tip-adapter", tiny, episode)
    assert not method.iterates and method.parameters() == []


# Tip-Adapter-F


def test_the_loss_is_cross_entropy_of_tip_adapters_logits(tiny: Backbone, episode: Episode) -> None:
    tuned = filled("tip-adapter-f", tiny, episode, cache_alpha=2.0, cache_beta=5.0)
    plain = filled("tip-adapter", tiny, episode, cache_alpha=2.0, cache_beta=5.0)
    plain.cache.load_state_dict(tuned.cache.state_dict())
    batch = batch_of(episode, tiny)
    with torch.no_grad():
        wanted = F.cross_entropy(plain.classifier(episode.class_names)(batch.images), batch.labels)
    assert tuned.loss(batch)["loss_ce"].item() == pytest.approx(wanted.item(), rel=1e-5)


def test_the_keys_alone_learn_and_the_constants_are_chosen_at_the_end(
    tiny: Backbone, episode: Episode
) -> None:
    method = filled("tip-adapter-f", tiny, episode, cache_alpha=None)
    keys, constants = method.cache.keys.clone(), method.cache.constants.clone()
    assert torch.allclose(constants, torch.tensor(method.start_at))
    losses = train(method, steps=12, lr=0.5)
    assert losses[-1] < losses[0] and not torch.equal(keys, method.cache.keys)
    assert [p is method.cache.keys for p in method.parameters()] == [True]
    assert method.param_groups()[0]["eps"] == 1e-4
    chosen = method.finish(source_validation(episode, tiny))
    assert method.cache.constants.tolist() == pytest.approx([chosen["alpha"], chosen["beta"]])
    assert not torch.equal(keys, method.cache.keys)  # the trained keys stay
