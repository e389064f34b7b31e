from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from clipalign.backbone import Backbone, load
from clipalign.core.errors import UserError
from clipalign.core.types import Episode
from clipalign.data.sources.folder import ImageFolder
from clipalign.protocols import build_episode
from tests.helpers.methods import batch_of, image_weights, names_with_gradient, ready, train


@pytest.fixture
def episode(squares: ImageFolder) -> Episode:
    return build_episode("domain-shift", squares, "grey", 0)


@pytest.mark.parametrize(("head", "name"), [("random", "erm-linear-head"), ("text", "erm")])
def test_with_weight_zero_it_is_erm_step_by_step(
    tiny: Backbone, episode: Episode, head: str, name: str
) -> None:
    ours, theirs = ready("miro", tiny, episode, miro_weight=0.0, head=head), ready(name, tiny, episode)
    assert train(ours) == pytest.approx(train(theirs), rel=1e-5)
    torch.testing.assert_close(image_weights(ours), image_weights(theirs), atol=1e-6, rtol=1e-5)


def outputs(visual: Any, images: Tensor, blocks: list[int]) -> list[Tensor]:
    """Output of the patch convolution and of blocks, by PyTorch's own hooks."""
    found: list[Tensor] = []
    layers = [visual.conv1, *(visual.transformer.resblocks[b] for b in blocks)]
    handles = [layer.register_forward_hook(lambda _m, _i, o: found.append(o)) for layer in layers]
    visual(images)
    for handle in handles:
        handle.remove()
    return found


def test_the_loss_is_its_equation(tiny: Backbone, episode: Episode) -> None:
    method = ready("miro", tiny, episode, miro_weight=0.5)
    train(method, steps=3, lr=1e-2)
    batch = batch_of(episode, tiny)
    assert method.blocks == (1, 2, 3)  # quarters of three blocks
    with torch.no_grad():
        now = outputs(method.backbone.model.visual, batch.images, [0, 1, 2])
        then = outputs(tiny.model.visual, batch.images, [0, 1, 2])
        total = 0.0
        for layer, (z, z0) in enumerate(zip(now, then, strict=True)):
            b = method.variances[str(layer)].flatten()
            variance = torch.log(1 + torch.exp(b)) + 1e-5
            if layer == 0:  # [B, channels, rows, columns]
                z, z0 = z.flatten(2).transpose(1, 2), z0.flatten(2).transpose(1, 2)
            total += 0.5 * float(((z - z0) ** 2 / variance + variance.log()).mean())
        features = method.backbone.encode_image(batch.images)
        ce = F.cross_entropy(method.linear_head(features), batch.labels)
    terms = method.loss(batch)
    assert terms["loss_miro"].item() == pytest.approx(0.5 * total, rel=1e-4)
    assert terms["loss_ce"].item() == pytest.approx(ce.item(), rel=1e-5)
    assert total > 4 * 0.5 * math.log(0.05)


@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_at_the_start_nothing_has_moved(
    tower: str, tiny_spec: str, resnet_spec: str, episode: Episode
) -> None:
    backbone = load(tiny_spec if tower == "vit" else resnet_spec)
    method = ready("miro", backbone, episode)
    layers = 1 + (3 if tower == "vit" else 4)
    assert len(method.variances) == len(method.layers) == layers
    for b in method.variances.values():
        assert torch.allclose(F.softplus(b) + 1e-5, torch.tensor(0.1))
    assert method.loss(batch_of(episode, backbone))["miro"].item() == pytest.approx(
        layers * math.log(0.1) / 2, rel=1e-4
    )


def test_the_frozen_tower_stays_and_gets_no_gradient(tiny: Backbone, episode: Episode) -> None:
    method = ready("miro", tiny, episode)
    kept = {name: tensor.clone() for name, tensor in method.frozen.items()}
    train(method, lr=1e-2)
    assert all(torch.equal(method.frozen[name], tensor) for name, tensor in kept.items())
    assert not any(tensor.requires_grad for tensor in method.frozen.values())
    assert {"visual.proj", "head.weight", "variances.0", "variances.3"} <= names_with_gradient(method)
    assert not torch.equal(image_weights(method), image_weights(ready("erm", tiny, episode)))


def test_it_holds_features_back(tiny: Backbone, episode: Episode) -> None:
    batch, moved = batch_of(episode, tiny), []
    for weight in (0.0, 1.0):
        method = ready("miro", tiny, episode, miro_weight=weight)
        train(method, steps=6, lr=1e-3)
        with torch.no_grad():
            (_, now), (_, then) = method.tapped(batch.images), method.tapped(batch.images, method.frozen)
        moved.append(sum(float((now[layer] - then[layer]).square().mean()) for layer in method.layers))
    assert 0 < moved[1] < moved[0]


def test_variances_learn_ten_times_faster_and_blocks_are_options(tiny: Backbone, episode: Episode) -> None:
    method = ready("miro", tiny, episode, miro_blocks=(2,), miro_stem=False)
    network, variances = method.param_groups()
    assert variances["lr_factor"] == 10 and [p.shape for p in variances["params"]] == [(1, 1, 32)]
    assert len(network["params"]) == len(list(tiny.model.visual.parameters())) + 2
    assert method.resolved() == {"miro_blocks": (2,), "miro_stem": False}
    with pytest.raises(UserError, match="--miro-blocks 4: this backbone allows 1 to 3"):
        ready("miro", tiny, episode, miro_blocks=(1, 4))


def test_the_published_blocks_of_twelve() -> None:
    assert [max(1, round(k * 12 / 4)) for k in (1, 2, 3, 4)] == [3, 6, 9, 12]
