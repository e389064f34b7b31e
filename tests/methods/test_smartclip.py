from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from clipalign.backbone import Backbone, load
from clipalign.core.config import OptimiserOptions
from clipalign.core.errors import UserError
from clipalign.core.types import Episode
from clipalign.engine.optimiser import build_optimizer
from clipalign.methods import get_method
from tests.helpers.backbones import write_backbone
from tests.helpers.captions import captioned, gradient, in_shards, ready_unstretched
from tests.helpers.methods import ready, total_loss


def set_mask_logits(method: Any, logit: float) -> None:
    """Set every mask logit to this value, for any caption."""
    with torch.no_grad():
        method.network.projection = torch.nn.Linear(24, 24)
        method.network.projection.weight.zero_()
        method.network.projection.bias.fill_(logit)


def parts(method: Any, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
    actual = method.features(batch)
    return actual["image"], actual["text"], actual["mask"]


def scores(image: Tensor, text: Tensor, mask: Tensor, scale: float, own: bool = False) -> Tensor:
    """Return S pair by pair; with `own`, under the mask of the image's caption."""
    n = range(len(image))
    rows = []
    for i in n:
        masked = [image[i] * mask[i if own else j] for j in n]
        rows.append(torch.stack([scale * m @ text[j] / m.norm() for j, m in enumerate(masked)]))
    return torch.stack(rows)


@pytest.mark.parametrize("options", [{}, {"mask": "soft"}, {"modular": False}, {"mask_scale": 100.0}])
def test_loss_equals_published_loss(tiny: Backbone, episode: Episode, options: dict[str, Any]) -> None:
    method = ready("smartclip", tiny, episode, **options)
    batch = captioned(episode, tiny)
    image, text, mask = parts(method, batch)
    scale = options.get("mask_scale", float(tiny.logit_scale.detach()))
    assert method.resolved()["mask_scale"] == pytest.approx(scale)
    S = scores(image, text, mask, scale, own=options.get("modular") is False)
    y = torch.arange(len(S))
    align = F.cross_entropy(S, y) + F.cross_entropy(S.T, y)
    terms = method.loss(batch)
    expected = 10 * align + 2 * mask.mean()
    torch.testing.assert_close(total_loss(terms), expected)
    theirs = gradient(method, expected)
    assert (gradient(method, total_loss(terms)) - theirs).norm() < 1e-4 * theirs.norm()
    torch.testing.assert_close(terms["sparsity"], mask.mean())
    active = (mask >= 0.5).sum(dim=1).float()
    assert terms["active_min"] == active.min() and terms["active_max"] == active.max()
    torch.testing.assert_close(terms["active_mean"], active.mean())
    assert terms["zero_masks"] == 0


@pytest.mark.parametrize("modular", [True, False])
@pytest.mark.parametrize("mask", ["hard", "soft"])
def test_masks_of_ones_give_infonce(tiny: Backbone, episode: Episode, modular: bool, mask: str) -> None:
    options = {"align_weight": 0.5, "sparsity_weight": 0.0, "modular": modular, "mask": mask}
    method = ready_unstretched("smartclip", tiny, episode, **options)
    set_mask_logits(method, 40.0)
    batch = captioned(episode, tiny)
    plain = ready_unstretched("infonce", tiny, episode, fixed_scale=method.mask_scale)
    torch.testing.assert_close(total_loss(method.loss(batch)), total_loss(plain.loss(batch)))


@pytest.mark.parametrize("modular", [True, False])
def test_empty_masks_have_a_finite_loss_and_warn_once(
    tiny: Backbone, episode: Episode, modular: bool, caplog: pytest.LogCaptureFixture
) -> None:
    method = ready_unstretched("smartclip", tiny, episode, modular=modular)
    set_mask_logits(method, -40.0)
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
def test_variants_split_into_the_same_loss_and_gradient(
    tiny: Backbone, episode: Episode, options: dict[str, Any]
) -> None:
    method, batch = ready("smartclip", tiny, episode, **options), captioned(episode, tiny)
    whole, many = total_loss(method.loss(batch)), in_shards(method, batch, (3, 8))
    torch.testing.assert_close(many, whole)
    one = gradient(method, whole)
    assert (gradient(method, many) - one).norm() < 1e-4 * one.norm()


def test_masks_have_no_gradient_to_the_text_tower(tiny: Backbone, episode: Episode) -> None:
    method = ready("smartclip", tiny, episode, align_weight=0.0)
    total_loss(method.loss(captioned(episode, tiny))).backward()
    assert all(p.grad is None or not p.grad.any() for p in method.backbone.model.parameters())
    assert method.network.in_proj.weight.grad.any()


def test_param_groups_separate_the_mask_network_and_freeze_the_scale(
    tiny: Backbone, episode: Episode
) -> None:
    method = ready("smartclip", tiny, episode, mask_lr=2e-3)
    towers, mask = method.param_groups()
    assert set(towers) == {"params"} and {id(p) for p in mask["params"]} == {
        id(p) for p in method.extra.parameters()
    }
    assert (mask["lr"], mask["weight_decay"], mask["warmup"]) == (2e-3, 0.0, False)
    assert all(p is not method.backbone.model.logit_scale for p in towers["params"])


@pytest.mark.parametrize("lr", [1e-6, 3e-5])
def test_mask_learning_rate_keeps_the_published_ratio_to_the_towers(
    tiny: Backbone, episode: Episode, lr: float
) -> None:
    method = ready("smartclip", tiny, episode)
    towers, mask = build_optimizer(method.param_groups(), OptimiserOptions(lr=lr)).param_groups
    assert towers["lr"] == lr and mask["lr"] == pytest.approx(1000 * lr)
    chosen = ready("smartclip", tiny, episode, mask_lr=2e-3)
    assert build_optimizer(chosen.param_groups(), OptimiserOptions(lr=lr)).param_groups[1]["lr"] == 2e-3


def test_training_uses_the_chosen_number_of_captions(tiny: Backbone, episode: Episode) -> None:
    assert ready("smartclip", tiny, episode).captions_per_image is None
    assert ready("smartclip", tiny, episode, captions_per_image=2).captions_per_image == 2
    with pytest.raises(UserError, match="--captions-per-image must be at least 1"):
        get_method("smartclip").Config(captions_per_image=0)


def test_caption_masks_equal_training_masks_whatever_the_batch(tiny: Backbone, episode: Episode) -> None:
    method, batch = ready("smartclip", tiny, episode, mask="soft"), captioned(episode, tiny)
    expected = parts(method, batch)[2]
    torch.testing.assert_close(method.caption_masks(batch.captions), expected.detach())
    beside = method.caption_masks(["a very long text. " * 20, *batch.captions], batch_size=3)
    torch.testing.assert_close(beside[1:], expected.detach(), rtol=1e-4, atol=1e-5)
    hard = ready("smartclip", tiny, episode).caption_masks(batch.captions)
    assert set(hard.unique().tolist()) <= {0.0, 1.0} and hard.shape == (8, 24)


def test_text_width_and_joint_size_can_differ(episode: Episode, tmp_path: Any) -> None:
    backbone = load(write_backbone(tmp_path / "wide", embed_dim=40))
    method, batch = ready("smartclip", backbone, episode), captioned(episode, backbone)
    assert method.caption_masks(batch.captions).shape == (8, 40)
    total_loss(method.loss(batch)).backward()
    assert method.network.projection.weight.grad.any()


def test_options_out_of_range_raise() -> None:
    for name, value in (
        ("align_weight", -1.0),
        ("sparsity_weight", -1.0),
        ("mask_lr", -1.0),
        ("mask_scale", 0.0),
    ):
        with pytest.raises(UserError, match=f"--{name.replace('_', '-')} must be"):
            get_method("smartclip").Config(**{name: value})
