from __future__ import annotations

import math

import pytest
import torch

from clipalign.backbone import Backbone
from clipalign.core.errors import UserError
from clipalign.core.types import Episode
from clipalign.data.sources.folder import ImageFolder
from clipalign.methods.clip_adapter import ClipAdapterConfig
from clipalign.protocols import build_episode
from tests.helpers.methods import batch_of, image_weights, names_with_gradient, ready, train


@pytest.fixture
def episode(squares: ImageFolder) -> Episode:
    return build_episode("domain-shift", squares, "grey", 0)


def test_the_loss_is_its_equation(tiny: Backbone, episode: Episode) -> None:
    method, batch = ready("clip-adapter", tiny, episode), batch_of(episode, tiny)
    first, _, second, _ = method.extra["adapter"]
    assert first.weight.shape == (6, 24) and second.weight.shape == (24, 6)
    assert first.bias is None and second.bias is None
    with torch.no_grad():
        features = method.backbone.encode_image(batch.images).double()
    w1, w2, text = (t.detach().double() for t in (first.weight, second.weight, method.text))
    total, s = 0.0, float(method.scale)
    for v, label in zip(features, batch.labels.tolist(), strict=True):
        hidden = torch.clamp(w1 @ v, min=0)
        adapted = 0.2 * torch.clamp(w2 @ hidden, min=0) + 0.8 * v
        z = [s * float(adapted @ t) / float(adapted.norm()) for t in text]
        total -= z[label] - math.log(sum(math.exp(value) for value in z))
    assert method.loss(batch)["loss_ce"].item() == pytest.approx(total / 8, rel=1e-5)


def test_at_ratio_zero_it_is_zero_shot(tiny: Backbone, episode: Episode) -> None:
    method, zeroshot = (
        ready("clip-adapter", tiny, episode, adapter_ratio=0.0),
        ready("zeroshot", tiny, episode),
    )
    images = batch_of(episode, tiny).images
    with torch.no_grad():
        for names in (episode.class_names, ("snow", "rust")):
            assert torch.equal(method.classifier(names)(images), zeroshot.classifier(names)(images))


def test_the_adapter_alone_learns(tiny: Backbone, episode: Episode) -> None:
    method = ready("clip-adapter", tiny, episode, adapter_ratio=0.8)
    # d * d/4 * 2 parameters: 131,072 for ViT-B/16 (d = 512)
    assert sum(p.numel() for p in method.parameters()) == 24 * 24 // 2
    tower = image_weights(method)
    losses = train(method, steps=15, lr=0.05)
    assert losses[-1] < losses[0] and torch.equal(tower, image_weights(method))
    assert names_with_gradient(method) == {"adapter.0.weight", "adapter.2.weight"}


def test_bad_settings_are_refused() -> None:
    with pytest.raises(UserError, match="--adapter-ratio"):
        ClipAdapterConfig(adapter_ratio=2.0)
    with pytest.raises(UserError, match="--adapter-reduction"):
        ClipAdapterConfig(adapter_reduction=0)
