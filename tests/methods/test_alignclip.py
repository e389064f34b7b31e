from __future__ import annotations

import copy
import logging
import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from clipalign.backbone import Backbone, preprocess_for
from clipalign.core.errors import UserError
from clipalign.core.types import Batch, Episode
from clipalign.data.batches import TrainBatches
from clipalign.data.sources.folder import ImageFolder
from clipalign.engine.averaging import make_average
from clipalign.methods import get_method
from clipalign.methods.alignclip import AlignClip, AlignClipConfig
from clipalign.methods.capabilities import MapSettings
from clipalign.methods.shared.alignclip_variant import PACS, released_sharpness, resolve
from clipalign.methods.shared.monitor import READ_EVERY
from clipalign.protocols import build_episode


@pytest.fixture
def batch(episode: Episode, tiny: Backbone) -> Batch:
    return TrainBatches(episode, 8, 0, preprocess_for(tiny))[0]


def ready(backbone: Backbone, episode: Episode, **options: Any) -> AlignClip:
    method = AlignClip(AlignClipConfig(**options))
    method.setup(backbone, episode, ("a photo of a {}.",))
    return method


def reference_dense(
    backbone: Backbone, text: torch.Tensor, batch: Batch, layers: int, dual: int
) -> dict[str, Any]:
    """Compute attention, tokens of both paths and image feature block by block, with full attention matrices."""
    visual: Any = backbone.model.visual
    x = visual.conv1(batch.images).flatten(2).transpose(1, 2)
    x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], 1) + visual.positional_embedding
    x, second, maps = visual.ln_pre(x), None, []
    blocks = visual.transformer.resblocks
    for i, block in enumerate(blocks):
        attention, width = block.attn, x.shape[-1]
        q, k, v = F.linear(block.ln_1(x), attention.in_proj_weight, attention.in_proj_bias).chunk(3, -1)
        heads = attention.num_heads
        q, k, v = (t.view(len(x), -1, heads, width // heads).transpose(1, 2) for t in (q, k, v))
        scores = q @ k.transpose(-1, -2) / math.sqrt(width // heads)
        if i < layers:
            maps.append((scores[:, :, 0, 1:].softmax(-1).mean(1), scores.softmax(-1)[:, :, 0].mean(1)[:, 1:]))
        if i >= len(blocks) - dual:
            second = x.detach() if second is None else second
            second = second + attention.out_proj(v.transpose(1, 2).flatten(2)).detach()
        x = x + attention.out_proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        x = x + block.mlp(block.ln_2(x))

    def project(tokens: torch.Tensor) -> torch.Tensor:
        return F.normalize(visual.ln_post(tokens) @ visual.proj, dim=-1)

    assert second is not None
    return {"f": project(x), "f_s": project(second)[:, 1:].detach(), "maps": maps}


def test_paper_variant_equals_equations(tiny: Backbone, episode: Episode, batch: Batch) -> None:
    method = ready(tiny, episode)
    actual = method.loss(batch)
    reference = reference_dense(tiny, method.text, batch, layers=1, dual=1)
    s, text, y = float(tiny.logit_scale), method.text, batch.labels
    attention = torch.stack([paper for paper, _ in reference["maps"]]).mean(0)
    g = (s * (reference["f"][:, 1:] * text[y][:, None]).sum(-1)).softmax(-1)
    g_dv = (s * (reference["f_s"] * text[y][:, None]).sum(-1)).softmax(-1)
    al = (attention * (attention / g_dv).log()).sum(1).mean()
    as_ = (g * (g / g_dv).log()).sum(1).mean()
    q = 0.9 * torch.eye(4) + 0.1 * (text @ text.T).softmax(-1)
    sls = -(q[y] * (s * reference["f"][:, 0] @ text.T).log_softmax(-1)).sum(1).mean()
    assert torch.allclose(actual["loss_al"], al, atol=1e-5)
    assert torch.allclose(actual["loss_as"], as_, atol=1e-5)
    assert torch.allclose(actual["loss_sls"], sls, atol=1e-5)
    entropy = -(g_dv * g_dv.log()).sum(1).mean()
    assert torch.allclose(actual["guide_entropy"], entropy, atol=1e-5)
    assert torch.allclose(actual["guide_kl_uniform"], math.log(16) - entropy, atol=1e-5)


def test_released_variant_equals_released_algorithm(tiny: Backbone, episode: Episode, batch: Batch) -> None:
    method = ready(tiny, episode, variant="released", aligned_layers=2, sharpness=35.0, margin=0.3)
    actual = method.loss(batch)
    reference = reference_dense(tiny, method.text, batch, layers=2, dual=1)
    s, text, y = float(tiny.logit_scale), method.text, batch.labels
    f = reference["f"].clone()
    f[:, 0] = f[:, 0] - 0.3 * text[y]
    r, r_s = f @ text.T, reference["f_s"] @ text.T
    d = (35 * text @ text.T).softmax(-1)
    q = d[y].clone()
    q[torch.arange(len(y)), y] = 0.9
    sls = -(q * (s * r[:, 0]).log_softmax(-1)).sum(1).mean()
    attention = torch.stack([m / m.sum(1, keepdim=True) for _, m in reference["maps"]]).mean(0)
    g = r_s.softmax(1)[torch.arange(len(y)), :, y]
    al = (g * (g.log() - attention.log())).sum() / len(y)
    as_ = (r_s.softmax(1) * (r_s.log_softmax(1) - r[:, 1:].log_softmax(1))).sum() / len(y)
    assert torch.allclose(actual["loss_sls"], sls, atol=1e-5)
    assert torch.allclose(actual["loss_al"], 10 * s / 100 * al, atol=1e-4)
    assert torch.allclose(actual["loss_as"], 10 * s / 100 * as_, atol=1e-4)


OFF = {"aal_weight": 0.0, "smoothing": "none", "margin": 0.0}


@pytest.mark.parametrize(
    "off",
    [OFF, {**OFF, "aal_weight": None, "al_weight": 0.0, "as_weight": 0.0}, {**OFF, "smoothing": "uniform"}],
)
def test_disabled_parts_train_like_erm(tiny: Backbone, episode: Episode, off: dict[str, Any]) -> None:
    ours, theirs = ready(tiny, episode, **off, epsilon=0.0), get_method("erm")()
    theirs.setup(copy.deepcopy(tiny), episode, ("a photo of a {}.",))
    losses: list[list[float]] = []
    for method in (ours, theirs):
        optimizer = torch.optim.AdamW(method.parameters(), lr=1e-4)
        batches, history = TrainBatches(episode, 6, 0, preprocess_for(method.backbone)), []
        for step in range(4):
            optimizer.zero_grad()
            loss = sum(v for k, v in method.loss(batches[step]).items() if k.startswith("loss"))
            assert isinstance(loss, torch.Tensor)
            loss.backward()
            optimizer.step()
            history.append(loss.item())
        losses.append(history)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0][0] != losses[0][3]


def test_detach_guide_stops_the_gradient_of_the_guide(tiny: Backbone, episode: Episode, batch: Batch) -> None:
    def gradient(detach: bool) -> torch.Tensor:
        method = ready(tiny, episode, al_weight=0.0, smoothing="none", detach_guide=detach)
        tiny.zero_grad()
        method.loss(batch)["loss_as"].backward()
        return torch.cat([p.grad.flatten() for p in method.parameters() if p.grad is not None])

    assert not torch.allclose(gradient(True), gradient(False), atol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"al_direction": "released"},
        {"as_direction": "released"},
        {"as_classes": "mean"},
        {"temperature": 0.5},
        {"aligned_layers": 3},
        {"first_aligned_layer": 1},
        {"subtract_class_mean": True},
        {"as_classes": "sum", "subtract_class_mean": True},
        {"sls_weight": 0.5},
        {"smoothing": "none", "sls_weight": 0.5},
        {"attention_over": "tokens"},
        {"aal_weight": 2.0},
        {"smoothing": "released"},
        {"smoothing": "paper-raw"},
        {"epsilon": 0.3},
        {"sharpness": 20.0},
        {"smoothing": "released", "normalise_targets": True},
        {"margin": 0.2},
        {"guide": "vvv"},
        {"dual_blocks": 2},
        {"keep_mlp": True},
    ],
)
def test_every_option_changes_the_loss(
    change: dict[str, Any], tiny: Backbone, episode: Episode, batch: Batch
) -> None:
    def total(**options: Any) -> float:
        terms = ready(tiny, episode, **options).loss(batch)
        return sum(v.item() for k, v in terms.items() if k.startswith("loss"))

    assert total(**change) != pytest.approx(total(), rel=1e-6)


def test_first_aligned_layer_selects_the_layers(tiny: Backbone, episode: Episode, batch: Batch) -> None:
    """The first layers' class query does not depend on the image; AL may leave them out."""
    reference = reference_dense(tiny, torch.empty(0), batch, layers=3, dual=1)
    method = ready(tiny, episode, first_aligned_layer=1, aligned_layers=2)
    dense = tiny.dense(batch.images, method.layers)
    for layer, attention in zip((1, 2), dense.cls_attention, strict=True):
        torch.testing.assert_close(attention, reference["maps"][layer][0])


def test_sls_weight_scales_the_classification_loss(tiny: Backbone, episode: Episode, batch: Batch) -> None:
    one, three = (ready(tiny, episode, sls_weight=w).loss(batch) for w in (1.0, 3.0))
    torch.testing.assert_close(three["loss_sls"], 3 * one["loss_sls"])
    torch.testing.assert_close(three["loss_al"], one["loss_al"])
    plain, double = (ready(tiny, episode, smoothing="none", sls_weight=w).loss(batch) for w in (1.0, 2.0))
    torch.testing.assert_close(double["loss_ce"], 2 * plain["loss_ce"])


def perturb(backbone: Backbone) -> None:
    with torch.no_grad():
        for parameter in backbone.image_parameters():
            parameter += 0.1 * torch.randn_like(parameter)


def test_initial_guide_does_not_follow_training(tiny: Backbone, episode: Episode, batch: Batch) -> None:
    frozen, current = ready(tiny, episode, guide_from="initial"), ready(tiny, episode)
    start = current.loss(batch)
    for name, value in frozen.loss(batch).items():
        torch.testing.assert_close(value, start[name])
    before = tiny.dense(batch.images, guide="dv").guide
    perturb(tiny)
    frozen.after_step(1)
    assert before is not None
    torch.testing.assert_close(frozen.teacher_guide(batch.images), before)
    torch.testing.assert_close(frozen.loss(batch)["guide_entropy"], start["guide_entropy"])
    assert not torch.allclose(current.loss(batch)["guide_entropy"], start["guide_entropy"], atol=1e-4)
    assert not any("teacher" in name for name in frozen.state_dict())
    trained = {id(p) for p in frozen.parameters()}
    assert frozen.teacher is not None and trained == {id(p) for p in tiny.image_parameters()}
    # The copy holds only the vision tower; the text tower is shared.
    assert frozen.teacher.model.token_embedding.weight is tiny.model.token_embedding.weight


def test_averaged_guide_is_that_of_the_moving_average(tiny: Backbone, episode: Episode, batch: Batch) -> None:
    method = ready(tiny, episode, guide_from="averaged")
    average = make_average("bma", method.parameters(), 2)
    method.use_average(average)
    perturb(tiny)
    average.update(1)
    method.after_step(1)
    actual = method.teacher_guide(batch.images)
    with average.applied():
        expected = tiny.dense(batch.images, guide="dv").guide
    assert expected is not None and not torch.allclose(actual, tiny.dense(batch.images, guide="dv").guide)
    torch.testing.assert_close(actual, expected)
    for kind in ("none", "swad"):
        with pytest.raises(UserError, match=f"--guide-from averaged needs .* --average {kind} has none"):
            method.check_average(kind)
    ready(tiny, episode).check_average("none")


def test_frozen_guide_has_no_gradient_to_keep(tiny: Backbone, episode: Episode) -> None:
    with pytest.raises(UserError, match="--no-detach-guide has no effect with --guide-from initial"):
        ready(tiny, episode, guide_from="initial", detach_guide=False)


def test_map_settings_are_those_of_the_loss(tiny: Backbone, episode: Episode) -> None:
    method = ready(
        tiny, episode, guide="V-V-V", dual_blocks=2, first_aligned_layer=1, aligned_layers=2, keep_mlp=True
    )
    assert method.map_settings() == MapSettings((1, 2), 2, "vvv", "patches", True)
    centred = ready(tiny, episode, subtract_class_mean=True).map_settings().class_mean
    assert centred == pytest.approx(method.text.mean(dim=0).tolist(), abs=1e-6)


def test_sum_over_classes_is_class_count_times_mean(tiny: Backbone, episode: Episode, batch: Batch) -> None:
    total, mean = (ready(tiny, episode, as_classes=kind).loss(batch)["as"] for kind in ("sum", "mean"))
    assert torch.allclose(total, 4 * mean)


def test_defaults_follow_scale_and_depth_of_the_backbone() -> None:
    clip = resolve(AlignClipConfig(), 100.0, 12)
    assert (clip.temperature, clip.aligned_layers, clip.dual_blocks) == (pytest.approx(0.01), 4, 6)
    released = resolve(AlignClipConfig(variant="released"), 100.0, 12)
    assert (released.sharpness, released.aligned_layers, released.aal_weight) == (pytest.approx(35), 5, 10)
    small = resolve(AlignClipConfig(), 20.0, 6)
    assert (small.temperature, small.aligned_layers, small.dual_blocks) == (pytest.approx(0.05), 2, 3)
    shallow = resolve(AlignClipConfig(variant="released"), 20.0, 6)
    assert (shallow.aligned_layers, shallow.margin) == (3, 0.3), "5 of 12 blocks, not the paper's 4 of 12"
    kept = resolve(AlignClipConfig(variant="released", temperature=0.01, sharpness=35), 20.0, 6)
    assert (kept.temperature, kept.sharpness) == (0.01, 35)
    assert resolve(AlignClipConfig(), 100.0, 1).aligned_layers == 1


def test_weighted_gradient_of_released_alignment_grows_with_the_scale_as_that_of_cross_entropy(
    tiny: Backbone, episode: Episode, batch: Batch
) -> None:
    def norms(scale: float, **options: Any) -> dict[str, float]:
        """Return the gradient norm of each weighted term. Small scales keep p - q nearly fixed."""
        with torch.no_grad():
            tiny.model.logit_scale.fill_(math.log(scale))
        method = ready(tiny, episode, smoothing="none", margin=0.0, **options)
        terms = method.loss(batch)
        norms = {}
        for name in ("loss_ce", "loss_al", "loss_as"):
            gradients = torch.autograd.grad(
                terms[name], method.parameters(), retain_graph=True, allow_unused=True
            )
            norms[name] = float(torch.cat([g.flatten() for g in gradients if g is not None]).norm())
        return norms

    small, large = (norms(scale, variant="released") for scale in (0.5, 1.0))
    for name, norm in large.items():
        assert norm / small[name] == pytest.approx(2, rel=0.05), name
    weights = [resolve(AlignClipConfig(variant="released"), scale, 12).aal_weight for scale in (100.0, 20.0)]
    assert weights == pytest.approx([10, 2])
    assert resolve(AlignClipConfig(), 20.0, 12).aal_weight == 1
    assert resolve(AlignClipConfig(variant="released", aal_weight=10.0), 20.0, 12).aal_weight == 10


@pytest.mark.parametrize("scale", [5.0, 20.0, 100.0])
def test_released_sharpness_keeps_the_published_share_of_other_classes(
    tiny: Backbone, episode: Episode, scale: float
) -> None:
    with torch.no_grad():
        tiny.model.logit_scale.fill_(math.log(scale))
    method = ready(tiny, episode, variant="released")
    assert method.resolved()["sharpness"] == method.variant.sharpness
    if scale == 100:
        assert method.variant.sharpness == 35
        return
    text = method.text_features(PACS, ("a photo of a {}.",)).double()
    shares = (method.variant.sharpness * text @ text.T).softmax(-1)
    # Mean of 1 - D_yy over the heat map published with the released code.
    assert float(1 - shares.diagonal().mean()) == pytest.approx(0.044, abs=1e-4)
    # How much class texts differ does not depend on the logit scale.
    assert method.variant.sharpness == pytest.approx(released_sharpness(tiny))


def test_options_out_of_range_raise() -> None:
    for options in ({"epsilon": 1.5}, {"temperature": 0.0}, {"margin": -1.0}, {"al_weight": math.nan}):
        with pytest.raises(UserError, match="--" + next(iter(options)).replace("_", "-")):
            AlignClipConfig(**options)
    with pytest.raises(UserError, match="--dual-blocks 7: this backbone allows 1 to 6"):
        resolve(AlignClipConfig(dual_blocks=7), 100.0, 6)
    with pytest.raises(UserError, match="--first-aligned-layer 3 with 4 aligned layers: this backbone has 6"):
        resolve(AlignClipConfig(first_aligned_layer=3, aligned_layers=4), 100.0, 6)


def test_nearly_uniform_guide_warns_once(
    tiny: Backbone, episode: Episode, batch: Batch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "clipalign"):
        for options in ({"temperature": 1e-3}, {"aal_weight": 0.0}):
            silent = ready(tiny, episode, **options)
            silent.loss(batch)
            silent.after_step(1)
        assert not caplog.records
        method = ready(tiny, episode, temperature=100.0)
        method.loss(batch)
        assert not caplog.records  # the loss does not wait for the GPU
        for step in (1, 1 + READ_EVERY):
            method.after_step(step)
            method.loss(batch)
    assert len(caplog.records) == 1 and "nearly uniform" in caplog.text


def test_guide_warning_uses_the_mean_since_the_last_read(
    tiny: Backbone, episode: Episode, caplog: pytest.LogCaptureFixture
) -> None:
    method = ready(tiny, episode)
    for step in range(1, 2 + READ_EVERY):  # a clear guide in the first step, nearly uniform ones after it
        method.guide_kl.add(torch.tensor(1.0 if step == 1 else 0.004))
        assert not caplog.records
        method.after_step(step)
    assert "KL to uniform 0.0040 < 0.01" in caplog.text


def test_targets_cover_only_training_classes(squares: ImageFolder, tiny: Backbone) -> None:
    method = ready(tiny, build_episode("in-the-wild", squares, "grey", 0), smoothing="released")
    assert method.targets is not None and method.targets.shape == (2, 2)
