"""Traces of both kinds of towers, compared with `dense` and with literal forms of the definitions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from clipalign.backbone import Backbone, load
from clipalign.backbone.attention import STRUCTURES, check_structure, rollout
from clipalign.core.errors import UserError
from tests.helpers.vit import multihead_attention_rows, reference_guide

MakeBackbone = Callable[..., Backbone]


@pytest.mark.parametrize("structure", STRUCTURES)
def test_named_structures_match_reference(make: MakeBackbone, images: Tensor, structure: str) -> None:
    backbone = make()
    trace = backbone.trace(images)
    for layers, blocks in ((None, 2), ([3], 1), ([3, 2, 1, -4], 4)):
        for keep_mlp in (False, True):
            actual = trace.patch_features(structure, layers, keep_mlp=keep_mlp)
            expected = reference_guide(backbone, images, structure, blocks, keep_mlp)
            torch.testing.assert_close(actual, expected, atol=2e-5, rtol=1e-4)


def test_names_are_canonical_and_spelling_does_not_matter(make: MakeBackbone, images: Tensor) -> None:
    assert all(check_structure(name) == name for name in STRUCTURES)
    trace = make().trace(images)
    assert torch.equal(trace.patch_features("V-V-V"), trace.patch_features("vvv"))


def test_trace_agrees_with_dense(make: MakeBackbone, images: Tensor) -> None:
    backbone = make()
    for pooling in ("class", "patches"):
        backbone.pooling = pooling
        trace, dense = backbone.trace(images), backbone.dense(images, [0, 3], "vvv", 2)
        torch.testing.assert_close(trace.image, dense.image)
        torch.testing.assert_close(trace.patches, dense.patches)
        torch.testing.assert_close(trace.patch_features("vvv", [2, 3]), dense.guide)
        torch.testing.assert_close(trace.class_attention([0, 3]), dense.cls_attention.mean(dim=0))


def test_resnet_trace_agrees_with_dense(resnet_spec: str) -> None:
    backbone = load(resnet_spec)
    images = torch.randn(2, 3, *backbone.image_size, generator=torch.Generator().manual_seed(0))
    trace, dense = backbone.trace(images), backbone.dense(images, [0], "kkv")
    torch.testing.assert_close(trace.image, dense.image)
    torch.testing.assert_close(trace.patches, dense.patches)
    torch.testing.assert_close(trace.patch_features("kkv"), dense.guide)
    torch.testing.assert_close(trace.class_attention(), dense.cls_attention[0])
    # A single layer, whose share of the class token itself is dropped.
    torch.testing.assert_close(trace.rollout(), trace.class_attention(over="tokens"))


def test_class_attention_of_heads_matches_multihead_attention(make: MakeBackbone, images: Tensor) -> None:
    backbone = make()
    rows = multihead_attention_rows(backbone, images)
    actual = backbone.trace(images).class_attention([1, -1], [-1], over="tokens")
    expected = torch.stack([rows[layer][:, -1, 1:] for layer in (1, 3)])  # [2, B, M]
    torch.testing.assert_close(actual, (expected / expected.sum(-1, keepdim=True)).mean(dim=0))


def test_heads_of_one_layer_add_up_to_all(make: MakeBackbone, images: Tensor) -> None:
    """Before the last LayerNorm, the outputs of single heads sum to that of all, biases counted once."""
    backbone = make()
    visual = backbone.model.visual
    visual.ln_post, visual.proj = torch.nn.Identity(), torch.nn.Parameter(torch.eye(backbone.vision_width))
    trace = backbone.trace(images)
    entering = trace.patch_features("dv", [3]) * 0
    block = visual.transformer.resblocks[3]
    with torch.no_grad():
        out_proj = block.attn.out_proj
        alone = [trace.patch_features("dv", [3], [head]) for head in range(trace.num_heads)]
        weight, out_proj.weight.data = out_proj.weight.data, torch.zeros_like(out_proj.weight)
        entering = trace.patch_features("dv", [3])  # tokens plus bias
        out_proj.weight.data = weight
    together = trace.patch_features("dv", [3])
    torch.testing.assert_close(
        sum(one - entering for one in alone) + entering, together, atol=1e-5, rtol=1e-4
    )
    assert not torch.allclose(alone[0], alone[1], atol=1e-4)


def test_rollout_matches_product_of_matrices() -> None:
    generator = torch.Generator().manual_seed(0)
    layers = [torch.rand(2, 5, 5, generator=generator, dtype=torch.float64).softmax(dim=-1) for _ in range(4)]
    for image in range(2):
        product = torch.eye(5, dtype=torch.float64)
        for layer in layers:
            product = (0.5 * layer[image] + 0.5 * torch.eye(5)) @ product
        expected = product[0, 1:] / product[0, 1:].sum()
        torch.testing.assert_close(rollout(layers)[image], expected)


def test_rollout_of_identity_attention_never_leaves_the_class_token() -> None:
    assert rollout([torch.eye(4)[None]] * 3).sum() == 0


def test_rollout_of_layers_uses_their_attention(make: MakeBackbone, images: Tensor) -> None:
    trace = make().trace(images)
    assert torch.equal(trace.rollout([2, 0]), trace.rollout([0, 2]))  # always from first to last
    torch.testing.assert_close(trace.rollout([1]), trace.class_attention([1], over="tokens"))
    torch.testing.assert_close(trace.rollout().sum(dim=-1), torch.ones(len(images)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda trace: trace.class_attention([4]),
            r"layers \[4\]: this backbone has 4 \(0 to 3, or negative",
        ),
        (lambda trace: trace.rollout([-5]), r"layers \[-5\]"),
        (lambda trace: trace.patch_features("dv", heads=[9]), r"heads \[9\]"),
        (lambda trace: trace.patch_features("xyz"), 'structure "xyz"'),
    ],
)
def test_invalid_choices_raise(
    make: MakeBackbone, images: Tensor, call: Callable[..., Tensor], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        call(make().trace(images))
