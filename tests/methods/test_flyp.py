from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from open_clip.loss import ClipLoss
from torch import Tensor
from torch.nn import functional as F

from clipalign.backbone import Backbone
from clipalign.core.types import Batch, Episode
from clipalign.methods import get_method
from tests.helpers.methods import batch_of, names_with_gradient, ready, train


def features(method: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return L2-normalised features of the images and of the prompt of each image."""
    names = [method.episode.class_names[y].replace("_", " ") for y in batch.labels.tolist()]
    text = method.backbone.encode_text([f"a photo of a {name}." for name in names])
    return F.normalize(method.backbone.encode_image(batch.images), dim=-1), F.normalize(text, dim=-1)


def losses(method: Any, batch: Batch) -> Tensor:
    terms = method.loss(batch)
    return terms["loss_image_to_text"] + terms["loss_text_to_image"]


def test_loss_equals_open_clip_loss(tiny: Backbone, episode: Episode) -> None:
    method, batch = ready("flyp", tiny, episode), batch_of(episode, tiny)
    image, text = features(method, batch)
    expected = ClipLoss()(image, text, method.backbone.logit_scale)
    assert losses(method, batch).item() == pytest.approx(expected.item(), rel=1e-5)
    total = 0.0
    z = (method.backbone.logit_scale * image @ text.T).double().tolist()
    for i in range(8):
        total -= z[i][i] - math.log(sum(math.exp(z[i][j]) for j in range(8)))
        total -= z[i][i] - math.log(sum(math.exp(z[j][i]) for j in range(8)))
    assert losses(method, batch).item() == pytest.approx(total / 16, rel=1e-5)


def test_same_class_positives_share_the_target_among_prompts_of_the_class(
    tiny: Backbone, episode: Episode
) -> None:
    method, batch = ready("flyp", tiny, episode, positives="same-class"), batch_of(episode, tiny)
    assert len(batch.labels.unique()) < 8
    image, text = features(method, batch)
    z, y = (method.backbone.logit_scale * image @ text.T).double(), batch.labels.tolist()
    total = 0.0
    for side in (z, z.T):
        for i in range(8):
            mine = [j for j in range(8) if y[j] == y[i]]
            total -= sum(side[i].log_softmax(0)[j].item() for j in mine) / len(mine)
    assert losses(method, batch).item() == pytest.approx(total / 16, rel=1e-5)


def test_positives_do_not_matter_if_all_classes_differ(tiny: Backbone, episode: Episode) -> None:
    batch = batch_of(episode, tiny, 16)
    rows = torch.tensor([batch.labels.tolist().index(c) for c in range(4)])
    one = Batch(batch.images[rows], batch.labels[rows], batch.domains[rows], batch.rows[rows])
    first, second = (
        losses(ready("flyp", tiny, episode, positives=p), one) for p in ("diagonal", "same-class")
    )
    assert torch.equal(first, second)


def test_templates_are_drawn_at_random(tiny: Backbone, episode: Episode) -> None:
    method = get_method("flyp")()
    method.setup(tiny, episode, ("a photo of a {}.", "a drawing of the {}.", "{}"))
    batch = batch_of(episode, tiny)
    seen = set()
    for seed in range(5):
        torch.manual_seed(seed)
        seen.add(round(losses(method, batch).item(), 6))
    assert len(seen) > 1 and method.tokens.shape[:2] == (4, 3)


def test_training_changes_both_towers_and_scale_and_keeps_new_classes_scorable(
    tiny: Backbone, episode: Episode
) -> None:
    method = ready("flyp", tiny, episode)
    with torch.no_grad():
        before = method.text_features(("snow",))
    train(method, lr=1e-2)
    losses(method, batch_of(episode, tiny)).backward()
    names = names_with_gradient(method)
    assert {"logit_scale", "visual.proj", "text_projection", "token_embedding.weight"} <= names
    with torch.no_grad():
        assert not torch.allclose(before, method.text_features(("snow",)), atol=1e-6)
        logits = method.classifier(("snow", "rust"))(batch_of(episode, tiny).images)
    assert logits.shape == (8, 2)


def test_logit_scale_is_clipped_at_100(tiny: Backbone, episode: Episode) -> None:
    method = ready("flyp", tiny, episode)
    with torch.no_grad():
        method.backbone.model.logit_scale.fill_(6.0)
    method.after_step(1)
    assert float(method.backbone.logit_scale.detach()) == pytest.approx(100, rel=1e-5)
