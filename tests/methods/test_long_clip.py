from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from clipalign.backbone import Backbone
from clipalign.core.types import Episode
from tests.helpers.captions import captioned, ready_unstretched
from tests.helpers.methods import total_loss


def normalised(features: Tensor) -> np.ndarray:
    return F.normalize(features, dim=-1).detach().double().numpy()


def both_ways(image: np.ndarray, text: np.ndarray, scale: float, smoothing: float) -> float:
    """Return the mean of both smoothed cross-entropies, entry by entry."""
    n, total = len(image), 0.0
    for z in (scale * image @ text.T, scale * text @ image.T):
        for i in range(n):
            log_p = z[i] - np.log(np.exp(z[i] - z[i].max()).sum()) - z[i].max()
            total -= (1 - smoothing) * log_p[i] + smoothing * log_p.mean()
    return total / (2 * n)


@pytest.mark.parametrize("components", [2, 32])
def test_loss_equals_released_loss(tiny: Backbone, episode: Episode, components: int) -> None:
    method = ready_unstretched("long-clip", tiny, episode, components=components)
    batch = captioned(episode, tiny)
    image, long = normalised(tiny.encode_image(batch.images)), normalised(tiny.encode_text(batch.captions))
    short = normalised(tiny.encode_text([caption.split(". ")[0] for caption in batch.captions]))
    mean = image.mean(axis=0)
    values, vectors = np.linalg.eigh((image - mean).T @ (image - mean))
    top = vectors[:, np.argsort(values)[::-1][:components]]
    coarse = (image - mean) @ top @ top.T + mean
    scale = float(tiny.logit_scale.detach())
    terms = {name: value.item() for name, value in method.loss(batch).items()}
    actual = terms["loss_image_to_text"] + terms["loss_text_to_image"]
    assert actual == pytest.approx(both_ways(image, long, scale, 0.1), rel=1e-4)
    actual = terms["loss_image_to_short"] + terms["loss_short_to_image"]
    assert actual == pytest.approx(both_ways(coarse, short, scale, 0.1), rel=1e-4)


def test_disabled_parts_give_infonce(tiny: Backbone, episode: Episode) -> None:
    batch = captioned(episode, tiny)
    expected = total_loss(ready_unstretched("infonce", tiny, episode).loss(batch))
    long_only = ready_unstretched("long-clip", tiny, episode, short_weight=0.0, label_smoothing=0.0)
    torch.testing.assert_close(total_loss(long_only.loss(batch)), expected)
    one = replace(batch, captions=tuple(caption.split(". ")[0] + "." for caption in batch.captions))
    both = ready_unstretched(
        "long-clip", tiny, episode, label_smoothing=0.0
    )  # 8 images have at most 32 components
    twice = 2 * total_loss(ready_unstretched("infonce", tiny, episode).loss(one))
    torch.testing.assert_close(total_loss(both.loss(one)), twice, rtol=1e-4, atol=1e-4)


def test_equal_images_have_a_finite_gradient(tiny: Backbone, episode: Episode) -> None:
    method = ready_unstretched("long-clip", tiny, episode)
    batch = captioned(episode, tiny)
    same = replace(batch, images=batch.images[:1].expand_as(batch.images).contiguous())
    total_loss(method.loss(same)).backward()
    assert all(bool(p.grad.isfinite().all()) for p in method.parameters() if p.grad is not None)
