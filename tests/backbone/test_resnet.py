"""Dense features of a ModifiedResNet, whose attention pool is one attention layer over cells."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clipalign.backbone import Backbone
from clipalign.core.errors import UserError


@pytest.fixture
def backbone(resnet: Backbone) -> Backbone:
    """A ModifiedResNet with random batch-norm statistics; with the default ones, training mode would go unnoticed."""
    generator = torch.Generator().manual_seed(3)
    for name, buffer in resnet.model.visual.named_buffers():
        if buffer.is_floating_point():
            noise = torch.rand(buffer.shape, generator=generator)
            buffer.copy_(0.5 + noise if name.endswith("var") else 0.1 * noise)
    return resnet


def pool_by_pytorch(backbone: Backbone, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the pool's outputs [B, 1 + M, d], weights [B, H, 1 + M, 1 + M] and tokens, as PyTorch computes them."""
    visual, pool = backbone.model.visual, backbone.model.visual.attnpool
    x = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(images)))))
    x = x.flatten(2).permute(2, 0, 1)
    x = torch.cat([x.mean(dim=0, keepdim=True), x]) + pool.positional_embedding[:, None]
    out, weights = F.multi_head_attention_forward(
        x,
        x,
        x,
        x.shape[-1],
        pool.num_heads,
        None,
        torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias]),
        None,
        None,
        False,
        0.0,
        pool.c_proj.weight,
        pool.c_proj.bias,
        use_separate_proj_weight=True,
        q_proj_weight=pool.q_proj.weight,
        k_proj_weight=pool.k_proj.weight,
        v_proj_weight=pool.v_proj.weight,
        need_weights=True,
        average_attn_weights=False,
    )
    return out.transpose(0, 1), weights, x.transpose(0, 1)


def test_backbone_attributes_describe_the_resnet(backbone: Backbone) -> None:
    assert (backbone.kind, backbone.num_blocks, backbone.grid, backbone.image_size) == (
        "resnet",
        1,
        (3, 3),
        (96, 96),
    )


def test_features_and_attention_match_the_pool(backbone: Backbone, square_images: Tensor) -> None:
    image = backbone.model.encode_image(square_images)
    rows, weights, _ = pool_by_pytorch(backbone, square_images)
    dense = backbone.dense(square_images, [0])
    torch.testing.assert_close(backbone.encode_image(square_images), image)
    torch.testing.assert_close(dense.image, image, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(dense.patches, rows[:, 1:], atol=1e-5, rtol=1e-4)
    heads = weights[:, :, 0, 1:]
    expected = (heads / heads.sum(-1, keepdim=True)).mean(dim=1)
    torch.testing.assert_close(dense.cls_attention, expected[None])
    tokens = backbone.dense(square_images, [-1], attention_over="tokens").cls_attention[0]
    mean = weights[:, :, 0, 1:].mean(dim=1)
    torch.testing.assert_close(tokens, mean / mean.sum(-1, keepdim=True))
    assert backbone.dense(square_images).cls_attention.shape == (0, 2, 9)


def test_guides_match_the_pools_projections(backbone: Backbone, square_images: Tensor) -> None:
    pool = backbone.model.visual.attnpool
    rows, _, tokens = pool_by_pytorch(backbone, square_images)
    values = pool.v_proj(tokens)
    dv = backbone.dense(square_images, (), "dv", 1).guide
    torch.testing.assert_close(dv, pool.c_proj(values)[:, 1:], atol=1e-5, rtol=1e-4)
    heads = values.unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)
    scores = heads @ heads.transpose(-1, -2) / heads.shape[-1] ** 0.5
    vvv = (scores.softmax(-1) @ heads).transpose(1, 2).flatten(2)
    detached = backbone.dense(square_images, (), "vvv").guide
    torch.testing.assert_close(detached, pool.c_proj(vvv)[:, 1:], atol=1e-5, rtol=1e-4)
    original = backbone.dense(square_images, (), "qkv", 1).guide
    torch.testing.assert_close(original, rows[:, 1:], atol=1e-5, rtol=1e-4)
    assert detached is not None and not detached.requires_grad
    attached = backbone.dense(square_images, (), "vvv", detach_guide=False).guide
    assert attached is not None and attached.requires_grad


def test_class_attention_trains_only_queries_and_keys_of_the_pool(
    backbone: Backbone, square_images: Tensor
) -> None:
    backbone.dense(square_images, [0], "dv", 1).cls_attention.square().sum().backward()
    pool = backbone.model.visual.attnpool
    assert pool.q_proj.weight.grad.abs().sum() > 0 and pool.k_proj.weight.grad.abs().sum() > 0
    assert pool.v_proj.weight.grad is None and pool.c_proj.weight.grad is None


def test_hooks_and_taps_receive_the_stages(backbone: Backbone, square_images: Tensor) -> None:
    seen: dict[int, Tensor] = {}
    with backbone.hooks(tap=lambda tower, block, x: seen.__setitem__(block, x)):
        plain = backbone.encode_image(square_images)
    intermediates = backbone.model.visual.forward_intermediates(square_images, intermediates_only=True)
    assert sorted(seen) == [-1, 0, 1, 2, 3]
    for block, expected in zip(range(-1, 4), intermediates["image_intermediates"], strict=True):
        torch.testing.assert_close(seen[block], expected)
    with backbone.hooks(vision=lambda block, x: 2 * x if block == 3 else x):
        assert not torch.allclose(backbone.dense(square_images).image, plain)


@pytest.mark.parametrize(
    "arguments", [{"attention_layers": [1]}, {"guide": "dv", "dual_blocks": 2}], ids=["layer", "dual"]
)
def test_layers_other_than_the_pool_are_refused(
    backbone: Backbone, square_images: Tensor, arguments: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match="this backbone"):
        backbone.dense(square_images, **arguments)


def test_vision_input_hook_is_refused(backbone: Backbone, square_images: Tensor) -> None:
    with backbone.hooks(vision_input=lambda x: x), pytest.raises(UserError, match="need a ViT"):
        backbone.encode_image(square_images)
