from __future__ import annotations

import pytest
import torch

from clipalign.backbone import Backbone, load
from clipalign.core.errors import UserError
from clipalign.core.types import Episode
from clipalign.data.sources.folder import ImageFolder
from clipalign.methods.wise_ft import WiseFtConfig
from clipalign.protocols import build_episode
from tests.helpers.methods import batch_of, image_weights, ready, source_validation, train


@pytest.fixture
def episode(squares: ImageFolder) -> Episode:
    return build_episode("domain-shift", squares, "grey", 0)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_weights_lie_on_the_line_and_the_ends_are_the_two_models(
    tiny: Backbone, episode: Episode, alpha: float
) -> None:
    method, erm = ready("wise-ft", tiny, episode, wise_alpha=alpha), ready("erm", tiny, episode)
    start = image_weights(method)
    assert train(method) == train(erm)  # nothing differs before the end
    method.finish(source_validation(episode, tiny))
    found, end = image_weights(method), image_weights(erm)
    assert not torch.equal(start, end)
    if alpha in (0.0, 1.0):
        assert torch.equal(found, end if alpha else start)
        other = erm if alpha else ready("zeroshot", tiny, episode)
        images = batch_of(episode, tiny).images
        with torch.no_grad():
            wanted = other.classifier(("snow", "rust"))(images)
            assert torch.equal(method.classifier(("snow", "rust"))(images), wanted)
    else:
        torch.testing.assert_close(found, (1 - alpha) * start + alpha * end, atol=1e-7, rtol=1e-5)


def test_alpha_is_the_best_of_the_curve(tiny: Backbone, episode: Episode) -> None:
    method = ready("wise-ft", tiny, episode, wise_steps=4)
    train(method, steps=6, lr=1e-2)
    tuned, rows = image_weights(method), source_validation(episode, tiny)
    chosen = method.finish(rows)
    assert [point["alpha"] for point in chosen["curve"]] == [0, 0.25, 0.5, 0.75, 1]
    best = max(point["validation_accuracy"] for point in chosen["curve"])
    near = min(
        (abs(p["alpha"] - 0.5), p["alpha"]) for p in chosen["curve"] if p["validation_accuracy"] == best
    )
    assert chosen["alpha"] == near[1] or abs(chosen["alpha"] - 0.5) == near[0]
    assert rows.accuracy(method.classifier(episode.class_names)) == best
    # The curve's last point is the fine-tuned model itself.
    same = ready("wise-ft", tiny, episode, wise_alpha=1.0)
    train(same, steps=6, lr=1e-2)
    assert torch.equal(tuned, image_weights(same))
    measured = rows.measure(same.classifier(episode.class_names))
    assert measured.items() <= chosen["curve"][-1].items()


def test_statistics_of_batch_norms_are_interpolated_and_counters_are_not(
    resnet_spec: str, episode: Episode
) -> None:
    method = ready("wise-ft", load(resnet_spec), episode, wise_alpha=0.5, wise_steps=1)
    norm = method.backbone.model.visual.bn1
    norm.running_mean += 2.0
    norm.num_batches_tracked += 7
    mean = norm.running_mean.clone()
    method.finish(source_validation(episode, method.backbone))
    assert torch.allclose(norm.running_mean, mean - 1) and int(norm.num_batches_tracked) == 0


def test_alpha_is_a_share() -> None:
    with pytest.raises(UserError, match="--wise-alpha"):
        WiseFtConfig(wise_alpha=1.5)
