"""Dense features of a ViT, compared with open_clip and with a literal implementation of the published description."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipalign.backbone import Backbone, load
from clipalign.core.errors import UserError
from tests.helpers.vit import multihead_attention_rows, reference_guide

MakeBackbone = Callable[..., Backbone]

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "quick gelu": {"quick_gelu": True},
    "custom attention": {"vision": {"block_type": "custom"}},
    "no first norm": {"vision": {"no_ln_pre": True}},
    "layer scale": {"vision": {"ls_init_value": 0.3}},
    "norm after pooling": {"vision": {"final_ln_after_pool": True}},
    "fixed positions": {"vision": {"pos_embed_type": "sin_cos_2d", "image_size": 24}},
    "separate text tower": {"custom_text": True},
}


def seq_first(backbone: Backbone) -> Backbone:
    """Return the backbone with a transformer in layout [N, B, W]."""
    transformer = backbone.model.visual.transformer
    transformer.batch_first = False
    for block in transformer.resblocks:
        block.attn.batch_first = False
    return backbone


class NewerAttention(nn.Module):
    """open_clip's own attention after release 3.3: the same parameters, but one input tensor and one output."""

    def __init__(self, old: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads = old.num_heads
        self.in_proj_weight, self.in_proj_bias = old.in_proj_weight, old.in_proj_bias
        self.out_proj = old.out_proj

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        q, k, v = (
            t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for t in F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        )
        return self.out_proj(F.scaled_dot_product_attention(q, k, v, attn_mask).transpose(1, 2).flatten(2))


class NewerBlock(nn.Module):
    """A block with `NewerAttention`."""

    def __init__(self, old: Any) -> None:
        super().__init__()
        self.ln_1, self.ls_1, self.ln_2, self.mlp, self.ls_2 = old.ln_1, old.ls_1, old.ln_2, old.mlp, old.ls_2
        self.attn = NewerAttention(old.attn)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        x = x + self.ls_1(self.attn(self.ln_1(x), attn_mask=attn_mask))
        return x + self.ls_2(self.mlp(self.ln_2(x)))


def newer(backbone: Backbone) -> Backbone:
    """Return the backbone with the blocks of newer versions of open_clip."""
    transformer = backbone.model.visual.transformer
    transformer.resblocks = nn.ModuleList(NewerBlock(block) for block in transformer.resblocks)
    return Backbone(backbone.model, backbone.tokenizer, "newer")


@pytest.mark.parametrize("variant", VARIANTS)
def test_image_and_patch_features_match_open_clip(make: MakeBackbone, images: Tensor, variant: str) -> None:
    backbone = make(**VARIANTS[variant])
    images = images[..., : backbone.image_size[1]]
    expected = backbone.model.encode_image(images)
    torch.testing.assert_close(backbone.encode_image(images), expected)
    dense = backbone.dense(images, range(4), "dv")
    torch.testing.assert_close(dense.image, expected)
    torch.testing.assert_close(backbone.dense(images).image, expected)
    visual = backbone.model.visual
    _, tokens = visual._pool(visual.transformer(visual._embeds(images)))
    if visual.final_ln_after_pool:  # open_clip does not normalise the tokens here
        tokens = visual.ln_post(tokens)
    torch.testing.assert_close(dense.patches, tokens @ visual.proj)
    assert dense.patches.shape[1] == backbone.grid[0] * backbone.grid[1]
    torch.testing.assert_close(dense.cls_attention.sum(-1), torch.ones(4, len(images)))


@pytest.mark.parametrize("change", [seq_first, newer])
def test_other_block_layouts_give_the_same_features(
    make: MakeBackbone, images: Tensor, change: Callable[[Backbone], Backbone]
) -> None:
    expected = make().dense(images, [0, 3], "vvv", 2)
    changed = change(make())
    actual = changed.dense(images, [0, 3], "vvv", 2)
    for name in ("image", "patches", "cls_attention", "guide"):
        torch.testing.assert_close(getattr(actual, name), getattr(expected, name))
    torch.testing.assert_close(changed.encode_image(images), expected.image)


def test_class_attention_matches_multihead_attention(make: MakeBackbone, images: Tensor) -> None:
    backbone = make()
    rows = multihead_attention_rows(backbone, images)
    layers = [2, 0, -1]
    tokens = backbone.dense(images, layers, attention_over="tokens").cls_attention
    patches = backbone.dense(images, layers, attention_over="patches").cls_attention
    assert tokens.shape == patches.shape == (3, 3, 12)
    for actual_tokens, actual_patches, layer in zip(tokens, patches, layers, strict=True):
        mean = rows[layer].mean(dim=1)[:, 1:]
        torch.testing.assert_close(actual_tokens, mean / mean.sum(-1, keepdim=True))
        # A softmax without the class key equals renormalising each head without it.
        heads = rows[layer][..., 1:]
        torch.testing.assert_close(actual_patches, (heads / heads.sum(-1, keepdim=True)).mean(dim=1))
    assert (tokens - patches).abs().max() > 1e-4


@pytest.mark.parametrize("structure", ["dv", "vvv", "qqv", "kkv", "qkv", "qqq", "kqv", "dq", "dk", "vqk"])
@pytest.mark.parametrize("dual_blocks", [1, 2, 4])
def test_guide_matches_reference(
    make: MakeBackbone, images: Tensor, structure: str, dual_blocks: int
) -> None:
    backbone = make()
    for keep_mlp in (False, True):
        actual = backbone.dense(images, (), structure, dual_blocks, keep_mlp=keep_mlp).guide
        expected = reference_guide(backbone, images, structure, dual_blocks, keep_mlp)
        torch.testing.assert_close(actual, expected, atol=2e-5, rtol=1e-4)


def test_guide_with_qkv_and_mlps_is_the_original_path(make: MakeBackbone, images: Tensor) -> None:
    dense = make().dense(images, (), "Q-K-V", 4, keep_mlp=True)
    torch.testing.assert_close(dense.guide, dense.patches, atol=1e-5, rtol=1e-4)
    without = make().dense(images, (), "Q-K-V", 4)
    assert (without.guide - without.patches).abs().max() > 0.01


def test_second_path_runs_in_half_of_the_blocks_by_default(make: MakeBackbone, images: Tensor) -> None:
    backbone = make()
    assert torch.equal(backbone.dense(images, (), "dv").guide, backbone.dense(images, (), "dv", 2).guide)


def test_patch_dropout_drops_patches_only_in_training(make: MakeBackbone, images: Tensor) -> None:
    backbone = make(vision={"patch_dropout": 0.5})
    torch.testing.assert_close(backbone.dense(images).image, backbone.model.encode_image(images))
    dense = backbone.train().dense(images, [1], "dv")
    assert dense.patches.shape[1] == dense.cls_attention.shape[2] == 6
    assert dense.guide is not None and dense.guide.shape[1] == 6
    torch.testing.assert_close(dense.cls_attention.sum(-1), torch.ones(1, 3))


@pytest.mark.parametrize(
    ("vision", "message"),
    [
        ({"qk_norm": True}, "block 0"),
        ({"scale_attn": True}, "block 0"),
        ({"scaled_cosine_attn": True, "block_type": "custom"}, "block 0"),
    ],
)
def test_unsupported_towers_are_refused(make: MakeBackbone, vision: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(vision=vision)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attention_layers": [4]}, r"attention layers \[4\]: this backbone has 4"),
        ({"attention_layers": [-5]}, "attention layers"),
        ({"guide": "dv", "dual_blocks": 5}, "dual blocks 5: this backbone allows 1 to 4"),
        ({"guide": "dv", "dual_blocks": 0}, "dual blocks 0"),
        ({"guide": "xyz"}, 'guide structure "xyz"'),
        ({"guide": "vd"}, "guide structure"),
        ({"attention_over": "heads"}, "attention over"),
    ],
)
def test_invalid_dense_arguments_are_refused(
    make: MakeBackbone, images: Tensor, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        make().dense(images, **arguments)


def test_images_of_another_size_are_refused(make: MakeBackbone) -> None:
    with pytest.raises(UserError, match="images of 32 x 24 pixels"):
        make().dense(torch.zeros(1, 3, 32, 24))
    with pytest.raises(UserError, match="which takes 24 x 32"):
        make().encode_image(torch.zeros(1, 3, 32, 32))


def test_backbone_attributes_describe_the_tower(make: MakeBackbone) -> None:
    backbone = make()
    assert (backbone.kind, backbone.num_blocks, backbone.grid, backbone.image_size) == (
        "vit",
        4,
        (3, 4),
        (24, 32),
    )
    assert (backbone.embed_dim, backbone.context_length) == (16, 20)
    assert backbone.mean == (0.5, 0.5, 0.5) and backbone.std == (0.25, 0.25, 0.25)
    assert backbone.logit_scale.shape == ()
    assert backbone.logit_scale.item() == pytest.approx(backbone.model.logit_scale.exp().item())
    image_parameters = {id(p) for p in backbone.image_parameters()}
    assert image_parameters == {id(p) for p in backbone.model.visual.parameters()}


def test_dense_features_of_vit_b_16_match_open_clip_and_reference() -> None:
    backbone = load("ViT-B-16:random")
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        dense = backbone.dense(images, range(4), "dv")
        image = backbone.model.encode_image(images)
        rows = multihead_attention_rows(backbone, images)
        guide = reference_guide(backbone, images, "dv", 6)
    assert backbone.grid == (14, 14) and backbone.num_blocks == 12
    assert dense.patches.shape == (1, 196, 512) and dense.cls_attention.shape == (4, 1, 196)
    torch.testing.assert_close(dense.image, image, atol=1e-5, rtol=1e-4)
    heads = rows[3][..., 1:]
    torch.testing.assert_close(dense.cls_attention[3], (heads / heads.sum(-1, keepdim=True)).mean(dim=1))
    torch.testing.assert_close(dense.guide, guide, atol=1e-5, rtol=1e-4)
