"""DPL: both losses and the published prediction, spelt out domain by domain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from clipalign.core.errors import UserError
from clipalign.methods.coop import CoOp
from clipalign.methods.dpl import Dpl
from tests.helpers.prompts import (
    NAMES,
    UNSEEN,
    batch_of,
    check_loss,
    check_trained,
    encode_images,
    encode_window,
    prompt_names,
    randomise,
    ready,
    window_with,
)


def domain_text(method: Any, images: Tensor, names: Sequence[str]) -> Tensor:
    """T of one domain from its images, without dropout."""
    tower, m = method.backbone, method.config.context_tokens
    made = []
    for image in images:
        x = tower.model.encode_image(image[None])[0]
        layers = list(method.generator.layers)
        for layer in layers[:-1]:
            x = (layer.weight @ x + layer.bias).clamp_min(0)
        made.append(layers[-1].weight @ x + layers[-1].bias)
    g = torch.stack(made).mean(0).view(m, -1)
    features = []
    for name in prompt_names(names):
        features.append(encode_window(tower, *window_with(tower, g, name)))
    return torch.stack(features)


@pytest.mark.parametrize("domain_loss", ["paper", "released"])
def test_loss_and_gradient_are_those_of_the_equation(domain_loss: str) -> None:
    method = ready(Dpl, context_tokens=3, generator_dropout=0.0, domain_loss=domain_loss)
    batch = batch_of()
    scale, images = method.backbone.logit_scale, encode_images(method.backbone, batch.images)
    text = [domain_text(method, batch.images[batch.domains == i], NAMES) for i in (0, 1)]
    if domain_loss == "paper":
        rows = [scale * image @ text[int(d)].T for image, d in zip(images, batch.domains, strict=True)]
    else:
        rows = [scale * image @ torch.cat(text).T for image in images]
    known = F.cross_entropy(torch.stack(rows), batch.labels)
    check_loss(method, batch, known)


@pytest.mark.parametrize("names", [NAMES, UNSEEN])
def test_published_prediction_makes_the_prompt_from_the_images_at_hand(names: Sequence[str]) -> None:
    method = ready(Dpl, context_tokens=3, prompt_batch=4)
    randomise(method)
    batch = batch_of(6)
    images = encode_images(method.backbone, batch.images)
    text = [domain_text(method, part, names) for part in batch.images.split(4)]
    known = torch.cat([images[:4] @ text[0].T, images[4:] @ text[1].T]) * method.backbone.logit_scale
    classify = method.classifier(names)
    torch.testing.assert_close(classify(batch.images), known)
    assert not torch.allclose(classify(batch.images[:1]), known[:1], atol=1e-3)


def test_prompts_kept_from_training_judge_each_image_alone() -> None:
    method = ready(Dpl, context_tokens=3, prompt_from="training")
    randomise(method)
    batch = batch_of(6)
    method.loss(batch)
    classify = method.classifier(UNSEEN)
    torch.testing.assert_close(classify(batch.images)[:1], classify(batch.images[:1]))
    coop = ready(CoOp, method.backbone, context_tokens=3)
    with torch.no_grad():
        coop.context.copy_(method.generator.mean)
        torch.testing.assert_close(classify(batch.images), coop.classifier(UNSEEN)(batch.images))
        # After one step: the mean over the domains of what the images of each make, dropout off.
        features = method.backbone.encode_image(batch.images)
        method.generator.eval()
        made = [method.generator(features[batch.domains == i]) for i in (0, 1)]
        torch.testing.assert_close(method.generator.mean, (made[0] + made[1]) / 2)
        method.loss(batch_of(6))
    assert int(method.generator.steps) == 2
    assert {"method.generator.mean", "method.generator.steps"} <= method.state_dict().keys()


def test_dropout_acts_in_training_alone_and_before_the_activation() -> None:
    method = ready(Dpl, context_tokens=3, generator_dropout=0.5)
    batch = batch_of()
    first, second = (float(method.loss(batch)["loss_ce"].detach()) for _ in range(2))
    assert first != second
    classify = method.classifier(NAMES)
    assert torch.equal(classify(batch.images), classify(batch.images))


def test_only_the_generator_is_trained_in_its_published_shape() -> None:
    method = ready(Dpl, context_tokens=3, generator_depth=4)
    check_trained(method)
    # Published: 512 - 512 - 512 - 512 * 16.
    shapes = [tuple(layer.weight.shape) for layer in method.generator.layers]
    assert shapes == [(16, 16), (16, 16), (16, 16), (3 * 24, 16)]
    assert all(float((layer.bias - 0.01).detach().abs().max()) < 1e-9 for layer in method.generator.layers)
    assert len(method.parameters()) == 8
    assert method.resolved() == {"generator_width": 16}
    assert not method.mean_over_rows


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context_tokens": 21}, "--context-tokens 21: the prompt of"),
        ({"context_tokens": 0}, "--context-tokens must be at least 1"),
        ({"generator_depth": 1}, "--generator-depth"),
        ({"generator_width": 0}, "--generator-width"),
        ({"generator_dropout": 1.0}, "--generator-dropout"),
        ({"prompt_batch": 0}, "--prompt-batch"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ready(Dpl, **options)
