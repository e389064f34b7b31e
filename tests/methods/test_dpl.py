"""DPL: both losses and the published prediction, computed domain by domain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from clipalign.backbone import Backbone, preprocess_for
from clipalign.data.sources.folder import ImageFolder
from clipalign.evaluation import EvalLoader
from clipalign.evaluation.loader import domain_batches
from clipalign.methods import JointClassifier
from clipalign.methods.coop import CoOp
from clipalign.methods.dpl import Dpl, DplConfig
from clipalign.protocols import build_episode
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
    """Return the text features [C, d] that the images of one domain generate, without dropout."""
    tower, m = method.backbone, method.config.context_tokens
    outputs = []
    for image in images:
        x = tower.model.encode_image(image[None])[0]
        layers = list(method.generator.layers)
        for layer in layers[:-1]:
            x = (layer.weight @ x + layer.bias).clamp_min(0)
        outputs.append(layers[-1].weight @ x + layers[-1].bias)
    g = torch.stack(outputs).mean(0).view(m, -1)
    features = []
    for name in prompt_names(names):
        features.append(encode_window(tower, *window_with(tower, g, name)))
    return torch.stack(features)


@pytest.mark.parametrize("domain_loss", ["paper", "released"])
def test_loss_and_gradient_equal_equation(domain_loss: str) -> None:
    method = ready(Dpl, context_tokens=3, generator_dropout=0.0, domain_loss=domain_loss)
    batch = batch_of()
    scale, images = method.backbone.logit_scale, encode_images(method.backbone, batch.images)
    text = [domain_text(method, batch.images[batch.domains == i], NAMES) for i in (0, 1)]
    if domain_loss == "paper":
        rows = [scale * image @ text[int(d)].T for image, d in zip(images, batch.domains, strict=True)]
    else:
        rows = [scale * image @ torch.cat(text).T for image in images]
    expected = F.cross_entropy(torch.stack(rows), batch.labels)
    check_loss(method, batch, expected)


@pytest.mark.parametrize("names", [NAMES, UNSEEN])
def test_published_prediction_generates_the_prompt_from_the_test_batch(names: Sequence[str]) -> None:
    method = ready(Dpl, context_tokens=3, prompt_batch=4)
    randomise(method)
    batch = batch_of(6)
    images = encode_images(method.backbone, batch.images)
    text = [domain_text(method, part, names) for part in batch.images.split(4)]
    expected = torch.cat([images[:4] @ text[0].T, images[4:] @ text[1].T]) * method.backbone.logit_scale
    classify = method.classifier(names)
    assert isinstance(classify, JointClassifier) and classify.batch_size == 4
    torch.testing.assert_close(classify(batch.images), expected)
    assert not torch.allclose(classify(batch.images[:1]), expected[:1], atol=1e-3)


def test_evaluation_generates_prompts_from_shuffled_images_of_one_domain(
    squares: ImageFolder, tiny: Backbone
) -> None:
    method = Dpl(DplConfig(context_tokens=3, prompt_batch=5))
    torch.manual_seed(0)
    method.setup(tiny, build_episode("domain-shift", squares, "grey", 0), ("a photo of a {}.",))
    randomise(method)
    loader, rows = EvalLoader(squares, preprocess_for(tiny)), np.arange(len(squares.labels))
    classify, classes = method.classifier(squares.class_names), range(len(squares.class_names))
    logits = loader.outputs(classify, rows, "test", classes).logits
    (images,) = (batch.images for batch in loader.batches(rows, "test", classes))
    assert len(rows) == 60
    expected = np.empty_like(logits)
    for part in domain_batches(squares.domains, 5):
        assert len(set(squares.labels[part].tolist())) > 1, "five rows in order would be of one class"
        with torch.no_grad():
            expected[part] = classify(images[part]).numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


def test_training_prompt_scores_each_image_independently() -> None:
    method = ready(Dpl, context_tokens=3, prompt_from="training")
    randomise(method)
    batch = batch_of(6)
    method.loss(batch)
    classify = method.classifier(UNSEEN)
    assert not isinstance(classify, JointClassifier)
    torch.testing.assert_close(classify(batch.images)[:1], classify(batch.images[:1]))
    coop = ready(CoOp, method.backbone, context_tokens=3)
    with torch.no_grad():
        coop.context.copy_(method.generator.mean)
        torch.testing.assert_close(classify(batch.images), coop.classifier(UNSEEN)(batch.images))
        # After one step: the mean over domains of the generated prompts, without dropout.
        features = method.backbone.encode_image(batch.images)
        method.generator.eval()
        outputs = [method.generator(features[batch.domains == i]) for i in (0, 1)]
        torch.testing.assert_close(method.generator.mean, (outputs[0] + outputs[1]) / 2)
        method.loss(batch_of(6))
    assert int(method.generator.steps) == 2
    assert {"method.generator.mean", "method.generator.steps"} <= method.state_dict().keys()


def test_dropout_is_off_in_predictions() -> None:
    method = ready(Dpl, context_tokens=3, generator_dropout=0.5)
    batch = batch_of()
    first, second = (float(method.loss(batch)["loss_ce"].detach()) for _ in range(2))
    assert first != second
    classify = method.classifier(NAMES)
    assert torch.equal(classify(batch.images), classify(batch.images))


def test_only_generator_is_trained_with_published_shapes() -> None:
    method = ready(Dpl, context_tokens=3, generator_depth=4)
    check_trained(method)
    # Published: 512 - 512 - 512 - 512 * 16.
    shapes = [tuple(layer.weight.shape) for layer in method.generator.layers]
    assert shapes == [(16, 16), (16, 16), (16, 16), (3 * 24, 16)]
    assert all(float((layer.bias - 0.01).detach().abs().max()) < 1e-9 for layer in method.generator.layers)
    assert len(method.parameters()) == 8
    assert method.resolved() == {"generator_width": 16}
    assert not method.mean_over_rows
