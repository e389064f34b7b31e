"""Gradients through the dense features of a ViT."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from clipalign import losses
from clipalign.backbone import Backbone
from tests.helpers.vit import reference_guide

MakeBackbone = Callable[..., Backbone]


def gradients(backbone: Backbone, loss: Tensor) -> dict[str, Tensor]:
    """Return the gradients of the vision tower that the loss sets."""
    backbone.zero_grad(set_to_none=True)
    loss.backward()
    visual = backbone.model.visual
    return {name: p.grad for name, p in visual.named_parameters() if p.grad is not None}


def test_detached_guide_has_no_gradient_and_changes_none(make: MakeBackbone, images: Tensor) -> None:
    backbone = make()
    dense = backbone.dense(images, [0], "dv", 3)
    assert dense.guide is not None and not dense.guide.requires_grad
    plain = gradients(backbone, backbone.dense(images, [0]).image.square().sum())
    with_guide = gradients(backbone, (dense.image + 0 * dense.guide.sum(1)).square().sum())
    assert plain.keys() == with_guide.keys()
    for name in plain:
        torch.testing.assert_close(plain[name], with_guide[name])
    attached = backbone.dense(images, (), "vvv", 3, detach_guide=False)
    assert attached.guide is not None
    grads = gradients(backbone, attached.guide.sum())
    assert grads["transformer.resblocks.3.attn.in_proj_weight"].abs().sum() > 0
    assert grads["conv1.weight"].abs().sum() > 0


def test_attached_guide_gradient_matches_reference(make: MakeBackbone, images: Tensor) -> None:
    backbone = make()
    guide = backbone.dense(images, (), "vvv", 2, detach_guide=False).guide
    assert guide is not None
    actual = gradients(backbone, guide.square().sum())
    expected = gradients(backbone, reference_guide(backbone, images, "vvv", 2).square().sum())
    assert actual.keys() <= expected.keys()
    for (
        name,
        gradient,
    ) in expected.items():  # zero for parameters that only the class token of the last block uses
        torch.testing.assert_close(
            actual.get(name, torch.zeros_like(gradient)), gradient, atol=1e-3, rtol=1e-3
        )


@pytest.mark.parametrize("over", ["patches", "tokens"])
def test_attention_alignment_trains_only_queries_and_keys_of_last_aligned_layer(
    make: MakeBackbone, images: Tensor, over: Any
) -> None:
    backbone = make()
    dense = backbone.dense(images, [0, 1], "dv", 2, attention_over=over)
    text, labels = torch.randn(5, 16), torch.tensor([0, 3, 1])
    assert dense.guide is not None
    log_guide = losses.log_similarity_distribution(dense.guide, text, labels, 0.1)
    loss = losses.attention_alignment(losses.class_attention(dense.cls_attention), log_guide)
    grads = gradients(backbone, loss)
    width = 32
    for layer in (0, 1):
        gradient = grads[f"transformer.resblocks.{layer}.attn.in_proj_weight"]
        q, k, v = gradient.split(width)
        assert q.abs().sum() > 0 and k.abs().sum() > 0
        # Layer 1 is the last aligned one: its values act after its attention.
        assert (v.abs().sum() > 0) == (layer == 0)
    for name in grads:
        assert not name.startswith(("transformer.resblocks.2", "transformer.resblocks.3", "ln_post", "proj"))
    assert {"conv1.weight", "class_embedding", "positional_embedding"} <= grads.keys()


def test_guide_keeps_gradients_under_autocast(make: MakeBackbone, images: Tensor) -> None:
    # Autocast caches half-precision weights; a copy made without gradient would cut the original path's gradient.
    backbone = make()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        dense = backbone.dense(images, [0, 1, 2, 3], "dv", 4)
        assert dense.cls_attention.dtype == torch.float32
        grads = gradients(backbone, dense.image.float().square().sum() + dense.patches.float().sum())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = gradients(
            backbone,
            (d := backbone.dense(images)).image.float().square().sum() + d.patches.float().sum(),
        )
    assert grads.keys() == plain.keys() == dict(backbone.model.visual.named_parameters()).keys()
    for name in grads:
        assert (grads[name] - plain[name]).norm() <= 0.05 * plain[name].norm() + 1e-3


def test_grad_checkpointing_saves_memory_and_keeps_gradients(make: MakeBackbone, images: Tensor) -> None:
    backbone = make()

    def run(dense: bool) -> tuple[dict[str, Tensor], int]:
        """Return gradients, and the number of values that the forward pass saved for them."""
        saved: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
            if dense:
                out = backbone.dense(images, [0, 1, 2, 3], "dv", 2)
                loss = out.image.square().sum() + out.cls_attention.square().sum() + out.patches.sum()
            else:
                loss = backbone.encode_image(images).square().sum()
        return gradients(backbone, loss), sum(saved)

    for dense in (False, True):
        backbone.set_grad_checkpointing(False)
        expected, memory = run(dense)
        backbone.set_grad_checkpointing(True)
        actual, less_memory = run(dense)
        assert less_memory < 0.7 * memory
        assert actual.keys() == expected.keys()
        for name in actual:
            torch.testing.assert_close(actual[name], expected[name])
