from __future__ import annotations

import math

import pytest
import torch

from clipalign.backbone import Backbone
from clipalign.core.errors import UserError
from clipalign.core.types import Episode
from clipalign.data.sources.folder import ImageFolder
from clipalign.methods import get_method
from clipalign.methods.clipood import ClipoodConfig
from clipalign.protocols import build_episode
from tests.helpers.methods import batch_of, image_weights, ready, train


@pytest.fixture
def episode(squares: ImageFolder) -> Episode:
    return build_episode("domain-shift", squares, "grey", 0)


def test_without_margin_it_is_erm_step_by_step(tiny: Backbone, episode: Episode) -> None:
    # The other half of CLIPood is --average bma, which does not touch training.
    ours, theirs = ready("clipood", tiny, episode, margin=0.0), ready("erm", tiny, episode)
    assert train(ours) == pytest.approx(train(theirs), rel=1e-5)
    assert torch.allclose(image_weights(ours), image_weights(theirs), atol=1e-6)
    assert get_method("clipood").average == "bma"


def test_the_loss_is_its_equation(tiny: Backbone, episode: Episode) -> None:
    method, batch = ready("clipood", tiny, episode, margin=0.3), batch_of(episode, tiny)
    with torch.no_grad():
        image = method.image_features(batch.images).double()
    text, s, total = method.text.double(), float(method.scale), 0.0
    for i, y in zip(image, batch.labels.tolist(), strict=True):
        # The paper's other form: every other class gains s lambda (1 - cos) on the true one.
        gains = [s * (float(i @ t) + 0.3 * (1 - float(t @ text[y]))) for t in text]
        total -= gains[y] - math.log(sum(math.exp(g) for g in gains))
    assert method.loss(batch)["loss_mms"].item() == pytest.approx(total / 8, rel=1e-4)


def test_the_margin_goes_with_the_scale(tiny: Backbone, episode: Episode) -> None:
    for scale, margin in ((100.0, 0.3), (50.0, 0.6), (20.0, 1.0)):
        with torch.no_grad():
            tiny.model.logit_scale.fill_(math.log(scale))
        assert ready("clipood", tiny, episode).resolved()["margin"] == pytest.approx(margin)
    assert ready("clipood", tiny, episode, margin=0.1).resolved() == {"margin": 0.1}


def test_predictions_know_no_margin(tiny: Backbone, episode: Episode) -> None:
    images = batch_of(episode, tiny).images
    with torch.no_grad():
        ours, theirs = (
            ready(n, tiny, episode).classifier(("a", "b"))(images) for n in ("clipood", "zeroshot")
        )
    assert torch.equal(ours, theirs)
    with pytest.raises(UserError, match="--margin"):
        ClipoodConfig(margin=-0.1)
