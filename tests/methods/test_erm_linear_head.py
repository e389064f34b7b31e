from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from clipalign.backbone import Backbone
from clipalign.core.errors import UnseenClasses
from clipalign.core.types import Episode
from clipalign.data.sources.folder import ImageFolder
from clipalign.protocols import build_episode
from tests.helpers.methods import batch_of, image_weights, ready, train


@pytest.fixture
def episode(squares: ImageFolder) -> Episode:
    return build_episode("domain-shift", squares, "grey", 0)


def test_the_loss_is_its_equation(tiny: Backbone, episode: Episode) -> None:
    method, batch = ready("erm-linear-head", tiny, episode), batch_of(episode, tiny)
    head = method.extra["head"]
    assert head.weight.abs().max() <= 24**-0.5  # PyTorch's default: uniform below 1 / sqrt(d)
    features = method.backbone.encode_image(batch.images).detach()
    total = 0.0
    for feature, label in zip(features, batch.labels, strict=True):
        z = (head.weight @ feature + head.bias).detach()
        total += float(-torch.log(z.exp()[label] / z.exp().sum()))
    assert method.loss(batch)["loss_ce"].item() == pytest.approx(total / len(batch), rel=1e-5)


def test_a_zero_shot_head_predicts_as_zero_shot_does(tiny: Backbone, episode: Episode) -> None:
    method, zeroshot = (
        ready("erm-linear-head", tiny, episode, head="zero-shot"),
        ready("zeroshot", tiny, episode),
    )
    images = batch_of(episode, tiny).images
    with torch.no_grad():
        wanted = zeroshot.classifier(episode.class_names)(images)
        assert torch.allclose(method.classifier(episode.class_names)(images), wanted, atol=1e-5)
    raw = ready("erm-linear-head", tiny, episode, head="zero-shot", unit_features=False)
    with torch.no_grad():
        norms = raw.backbone.encode_image(images).norm(dim=-1, keepdim=True)
        assert torch.allclose(raw.classifier(episode.class_names)(images), norms * wanted, atol=1e-4)


def test_tower_and_head_are_trained(tiny: Backbone, episode: Episode) -> None:
    method = ready("erm-linear-head", tiny, episode)
    tower, head = image_weights(method), method.extra["head"].weight.clone()
    losses = train(method, steps=20, lr=0.02)
    assert losses[-1] < losses[0]
    assert not torch.equal(tower, image_weights(method))
    assert not torch.equal(head, method.extra["head"].weight)


def test_classes_are_found_by_name_and_others_refused(tiny: Backbone, episode: Episode) -> None:
    method = ready("erm-linear-head", tiny, episode)
    images, names = batch_of(episode, tiny).images, episode.class_names
    with torch.no_grad():
        logits = method.classifier(names)(images)
        some = method.classifier([names[2].replace("_", " ").upper(), names[0]])(images)
    assert torch.equal(some, logits[:, [2, 0]])
    with pytest.raises(UnseenClasses, match=r'--method erm-linear-head .* 4 classes .* "snow"'):
        method.classifier(["snow", *names])


def test_the_head_is_float32_under_autocast(tiny: Backbone, episode: Episode) -> None:
    method = ready("erm-linear-head", tiny, episode)
    features = torch.randn(3, 24)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        got = method.logits(features)
    head = method.extra["head"]
    assert torch.equal(got, F.linear(features, head.weight, head.bias))
