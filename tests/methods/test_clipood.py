from __future__ import annotations

import math

import pytest
import torch

from clipalign.backbone import Backbone
from clipalign.core.errors import UserError
from clipalign.core.types import Episode
from clipalign.methods import get_method
from clipalign.methods.clipood import ClipoodConfig
from tests.helpers.methods import batch_of, image_weights, ready, train


def test_margin_zero_trains_like_erm(tiny: Backbone, episode: Episode) -> None:
    # The rest of CLIPood is --average bma, which does not change training.
    ours, theirs = ready("clipood", tiny, episode, margin=0.0), ready("erm", tiny, episode)
    assert train(ours) == pytest.approx(train(theirs), rel=1e-5)
    assert torch.allclose(image_weights(ours), image_weights(theirs), atol=1e-6)
    assert get_method("clipood").average == "bma"


def test_loss_equals_equation(tiny: Backbone, episode: Episode) -> None:
    method, batch = ready("clipood", tiny, episode, margin=0.3), batch_of(episode, tiny)
    with torch.no_grad():
        image = method.image_features(batch.images).double()
    text, s, total = method.text.double(), float(method.scale), 0.0
    for i, y in zip(image, batch.labels.tolist(), strict=True):
        # The paper's other form: every other class gains s lambda (1 - cos) relative to the true one.
        gains = [s * (float(i @ t) + 0.3 * (1 - float(t @ text[y]))) for t in text]
        total -= gains[y] - math.log(sum(math.exp(g) for g in gains))
    assert method.loss(batch)["loss_mms"].item() == pytest.approx(total / 8, rel=1e-4)


def test_default_margin_is_the_published_cosine_at_every_logit_scale(
    tiny: Backbone, episode: Episode
) -> None:
    for scale in (100.0, 50.0, 20.0):
        with torch.no_grad():
            tiny.model.logit_scale.fill_(math.log(scale))
        default, published = (ready("clipood", tiny, episode, **o) for o in ({}, {"margin": 0.3}))
        batch = batch_of(episode, tiny)
        assert torch.equal(default.loss(batch)["loss_mms"], published.loss(batch)["loss_mms"])
    assert ClipoodConfig().margin == 0.3 and ClipoodConfig(margin=0.1).margin == 0.1


def test_predictions_use_no_margin(tiny: Backbone, episode: Episode) -> None:
    images = batch_of(episode, tiny).images
    with torch.no_grad():
        ours, theirs = (
            ready(n, tiny, episode).classifier(("a", "b"))(images) for n in ("clipood", "zeroshot")
        )
    assert torch.equal(ours, theirs)
    with pytest.raises(UserError, match="--margin"):
        ClipoodConfig(margin=-0.1)
