from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from clipalign.backbone import Backbone, load
from clipalign.core.errors import UserError
from clipalign.core.types import Episode
from clipalign.data.sources.folder import ImageFolder
from clipalign.methods import get_method
from clipalign.protocols import build_episode
from tests.helpers.backbones import write_backbone
from tests.helpers.captions import captioned, gradient, in_shards, ready_unstretched
from tests.helpers.methods import ready, total_loss


@pytest.fixture
def episode(squares: ImageFolder) -> Episode:
    return build_episode("domain-shift", squares, "grey", 0)


def push_masks(method: Any, logit: float) -> None:
    """Give every mask logit nearly this value, whatever the caption."""
    with torch.no_grad():
        method.network.projection = torch.nn.Linear(24, 24)
        method.network.projection.weight.zero_()
        method.network.projection.bias.fill_(logit)


def parts(method: Any, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
    found = method.features(batch)
    return found["image"], found["text"], found["mask"]


def scores(image: Tensor, text: Tensor, mask: Tensor, scale: float, own: bool = False) -> Tensor:
    """S, pair by pair; `own`: under the mask of the image's own caption."""
    n = range(len(image))
    rows = []
    for i in n:
        masked = [image[i] * mask[i if own else j] for j in n]
        rows.append(torch.stack([scale * m @ text[j] / m.norm() for j, m in enumerate(masked)]))
    return torch.stack(rows)


@pytest.mark.parametrize("options", [{}, {"mask": "soft"}, {"modular": False}, {"mask_scale": 100.0}])
def test_it_is_the_published_loss(tiny: Backbone, episode: Episode, options: dict[str, Any]) -> None:
    method = ready("smartclip", tiny, episode, **options)
    batch = captioned(episode, tiny)
    image, text, mask = parts(method, batch)
    scale = options.get("mask_scale", float(tiny.logit_scale.detach()))
    assert method.resolved()["mask_scale"] == pytest.approx(scale)
    S = scores(image, text, mask, scale, own=options.get("modular") is False)
    y = torch.arange(len(S))
    align = F.cross_entropy(S, y) + F.cross_entropy(S.T, y)
    terms = method.loss(batch)
    wanted = 10 * align + 2 * mask.mean()
    torch.testing.assert_close(total_loss(terms), wanted)
    theirs = gradient(method, wanted)
    assert (gradient(method, total_loss(terms)) - theirs).norm() < 1e-4 * theirs.norm()
    torch.testing.assert_close(terms["sparsity"], mask.mean())
    active = (mask >= 0.5).sum(dim=1).float()
    assert terms["active_min"] == active.min() and terms["active_max"] == active.max()
    torch.testing.assert_close(terms["active_mean"], active.mean())
    assert terms["zero_masks"] == 0


@pytest.mark.parametrize("modular", [True, False])
@pytest.mark.parametrize("mask", ["hard", "soft"])
def test_with_masks_of_ones_it_is_infonce(tiny: Backbone, episode: Episode, modular: bool, mask: str) -> None:
    options = {"align_weight": 0.5, "sparsity_weight": 0.0, "modular": modular, "mask": mask}
    method = ready_unstretched("smartclip", tiny, episode, **options)
    push_masks(method, 40.0)
    batch = captioned(episode, tiny)
    plain = ready_unstretched("infonce", tiny, episode, fixed_scale=method.mask_scale)
    torch.testing.assert_close(total_loss(method.loss(batch)), total_loss(plain.loss(batch)))


@pytest.mark.parametrize("modular", [True, False])
def test_masks_of_zeros_are_defined_and_warned_of_once(
    tiny: Backbone, episode: Episode, modular: bool, caplog: pytest.LogCaptureFixture
) -> None:
    method = ready_unstretched("smartclip", tiny, episode, modular=modular)
    push_masks(method, -40.0)
    batch = captioned(episode, tiny)
    with caplog.at_level(logging.WARNING):
        for step in range(1, 103):
            if step % 50 == 1:
                terms = method.loss(batch)
            method.after_step(step)
    assert caplog.text.count("100.0 % of captions have an empty mask") == 1
    assert terms["zero_masks"] == 1 and terms["sparsity"] == 0
    assert total_loss(terms).item() == pytest.approx(20 * torch.tensor(8.0).log().item())
    assert bool(gradient(method, total_loss(terms)).isfinite().all())


@pytest.mark.parametrize("options", [{"modular": False}, {"mask": "soft"}])
def test_its_variants_too_can_be_split(tiny: Backbone, episode: Episode, options: dict[str, Any]) -> None:
    method, batch = ready("smartclip", tiny, episode, **options), captioned(episode, tiny)
    whole, many = total_loss(method.loss(batch)), in_shards(method, batch, (3, 8))
    torch.testing.assert_close(many, whole)
    one = gradient(method, whole)
    assert (gradient(method, many) - one).norm() < 1e-4 * one.norm()


def test_the_text_tower_learns_nothing_through_the_masks(tiny: Backbone, episode: Episode) -> None:
    method = ready("smartclip", tiny, episode, align_weight=0.0)
    total_loss(method.loss(captioned(episode, tiny))).backward()
    assert all(p.grad is None or not p.grad.any() for p in method.backbone.model.parameters())
    assert method.network.in_proj.weight.grad.any()


def test_groups_have_their_own_rates_and_the_scale_is_held(tiny: Backbone, episode: Episode) -> None:
    method = ready("smartclip", tiny, episode, mask_lr=2e-3)
    towers, mask = method.param_groups()
    assert set(towers) == {"params"} and {id(p) for p in mask["params"]} == {
        id(p) for p in method.extra.parameters()
    }
    assert (mask["lr"], mask["weight_decay"], mask["warmup"]) == (2e-3, 0.0, False)
    assert all(p is not method.backbone.model.logit_scale for p in towers["params"])


def test_masks_of_texts_are_those_of_training_whatever_stands_beside(
    tiny: Backbone, episode: Episode
) -> None:
    method, batch = ready("smartclip", tiny, episode, mask="soft"), captioned(episode, tiny)
    wanted = parts(method, batch)[2]
    torch.testing.assert_close(method.caption_masks(batch.captions), wanted.detach())
    beside = method.caption_masks(["a very long text. " * 20, *batch.captions], batch_size=3)
    torch.testing.assert_close(beside[1:], wanted.detach(), rtol=1e-4, atol=1e-5)
    hard = ready("smartclip", tiny, episode).caption_masks(batch.captions)
    assert set(hard.unique().tolist()) <= {0.0, 1.0} and hard.shape == (8, 24)


def test_text_width_and_joint_size_may_differ(episode: Episode, tmp_path: Any) -> None:
    backbone = load(write_backbone(tmp_path / "wide", embed_dim=40))
    method, batch = ready("smartclip", backbone, episode), captioned(episode, backbone)
    assert method.caption_masks(batch.captions).shape == (8, 40)
    total_loss(method.loss(batch)).backward()
    assert method.network.projection.weight.grad.any()


def test_values_out_of_range_are_refused() -> None:
    for name, value in (
        ("align_weight", -1.0),
        ("sparsity_weight", -1.0),
        ("mask_lr", -1.0),
        ("mask_scale", 0.0),
    ):
        with pytest.raises(UserError, match=f"--{name.replace('_', '-')} must be"):
            get_method("smartclip").Config(**{name: value})
