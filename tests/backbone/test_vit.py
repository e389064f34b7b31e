"""The dense pass of a ViT against open_clip itself and against the published description, spelt out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipalign import losses
from clipalign.backbone import Backbone, load
from clipalign.core.errors import UserError

MakeBackbone = Callable[..., Backbone]

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "quick gelu": {"quick_gelu": True},
    "own attention": {"vision": {"block_type": "custom"}},
    "no first norm": {"vision": {"no_ln_pre": True}},
    "layer scale": {"vision": {"ls_init_value": 0.3}},
    "norm after pooling": {"vision": {"final_ln_after_pool": True}},
    "fixed positions": {"vision": {"pos_embed_type": "sin_cos_2d", "image_size": 24}},
    "separate text tower": {"custom_text": True},
}


def seq_first(backbone: Backbone) -> Backbone:
    """The same weights in a transformer that runs [N, B, W]."""
    transformer = backbone.model.visual.transformer
    transformer.batch_first = False
    for block in transformer.resblocks:
        block.attn.batch_first = False
    return backbone


class NewerAttention(nn.Module):
    """The shape of open_clip's own attention after release 3.3: same names, takes one tensor, returns one."""

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
    def __init__(self, old: Any) -> None:
        super().__init__()
        self.ln_1, self.ls_1, self.ln_2, self.mlp, self.ls_2 = old.ln_1, old.ls_1, old.ln_2, old.mlp, old.ls_2
        self.attn = NewerAttention(old.attn)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        x = x + self.ls_1(self.attn(self.ln_1(x), attn_mask=attn_mask))
        return x + self.ls_2(self.mlp(self.ln_2(x)))


def newer(backbone: Backbone) -> Backbone:
    """The same weights in blocks as newer open_clip writes them."""
    transformer = backbone.model.visual.transformer
    transformer.resblocks = nn.ModuleList(NewerBlock(block) for block in transformer.resblocks)
    return Backbone(backbone.model, backbone.tokenizer, "newer")


def rows_of_multihead_attention(backbone: Backbone, images: Tensor) -> list[Tensor]:
    """Per block, what nn.MultiheadAttention itself reports for the class token: [B, J, N]."""
    rows = []

    def record(module: nn.MultiheadAttention, inputs: tuple[Tensor, ...]) -> None:
        _, weights = F.multi_head_attention_forward(
            *(t.transpose(0, 1) for t in inputs[:3]),
            module.embed_dim,
            module.num_heads,
            module.in_proj_weight,
            module.in_proj_bias,
            None,
            None,
            False,
            0.0,
            module.out_proj.weight,
            module.out_proj.bias,
            need_weights=True,
            average_attn_weights=False,
        )
        rows.append(weights[:, :, 0])

    handles = [b.attn.register_forward_pre_hook(record) for b in backbone.model.visual.transformer.resblocks]
    backbone.model.encode_image(images)
    for handle in handles:
        handle.remove()
    return rows


def slow_guide(
    backbone: Backbone, images: Tensor, structure: str, dual_blocks: int, keep_mlp: bool = False
) -> Tensor:
    """The second path word by word: full attention matrices, one head after the other, class row replaced."""
    visual = backbone.model.visual
    x = visual._embeds(images)
    second = None
    for i, block in enumerate(visual.transformer.resblocks):
        normed = block.ln_1(x)
        weight, bias, heads = block.attn.in_proj_weight, block.attn.in_proj_bias, block.attn.num_heads
        width = weight.shape[1]
        size = width // heads
        if i >= len(visual.transformer.resblocks) - dual_blocks:
            second = x if second is None else second
            parts = {
                name: normed @ weight[n * width : (n + 1) * width].T + bias[n * width : (n + 1) * width]
                for n, name in enumerate("qkv")
            }
            outputs = []
            for head in range(heads):
                one = {name: t[..., head * size : (head + 1) * size] for name, t in parts.items()}
                if structure[0] == "d":
                    attention = torch.eye(x.shape[1])
                else:
                    scores = one[structure[0]] @ one[structure[1]].transpose(1, 2) / size**0.5
                    attention = scores.softmax(dim=-1)
                outputs.append(attention @ one[structure[-1]])
            second = second + block.attn.out_proj(torch.cat(outputs, dim=-1))
            if keep_mlp:
                second = second + block.mlp(block.ln_2(second))
        x = block(x)
    assert second is not None
    second = torch.cat([x[:, :1], second[:, 1:]], dim=1)
    return (visual.ln_post(second) @ visual.proj)[:, 1:]


@pytest.mark.parametrize("variant", VARIANTS)
def test_image_and_patches_are_open_clips(make: MakeBackbone, images: Tensor, variant: str) -> None:
    backbone = make(**VARIANTS[variant])
    images = images[..., : backbone.image_size[1]]
    known = backbone.model.encode_image(images)
    torch.testing.assert_close(backbone.encode_image(images), known)
    dense = backbone.dense(images, range(4), "dv")
    torch.testing.assert_close(dense.image, known)
    torch.testing.assert_close(backbone.dense(images).image, known)
    visual = backbone.model.visual
    _, tokens = visual._pool(visual.transformer(visual._embeds(images)))
    if visual.final_ln_after_pool:  # open_clip leaves its tokens unnormalised there
        tokens = visual.ln_post(tokens)
    torch.testing.assert_close(dense.patches, tokens @ visual.proj)
    assert dense.patches.shape[1] == backbone.grid[0] * backbone.grid[1]
    torch.testing.assert_close(dense.cls_attention.sum(-1), torch.ones(4, len(images)))


@pytest.mark.parametrize("change", [seq_first, newer])
def test_other_layouts_of_the_same_weights_give_the_same(
    make: MakeBackbone, images: Tensor, change: Callable[[Backbone], Backbone]
) -> None:
    known = make().dense(images, [0, 3], "vvv", 2)
    changed = change(make())
    got = changed.dense(images, [0, 3], "vvv", 2)
    for name in ("image", "patches", "cls_attention", "guide"):
        torch.testing.assert_close(getattr(got, name), getattr(known, name))
    torch.testing.assert_close(changed.encode_image(images), known.image)


def test_class_attention_is_that_of_multihead_attention(make: MakeBackbone, images: Tensor) -> None:
    backbone = make()
    rows = rows_of_multihead_attention(backbone, images)
    layers = [2, 0, -1]
    tokens = backbone.dense(images, layers, attention_over="tokens").cls_attention
    patches = backbone.dense(images, layers, attention_over="patches").cls_attention
    assert tokens.shape == patches.shape == (3, 3, 12)
    for got_tokens, got_patches, layer in zip(tokens, patches, layers, strict=True):
        mean = rows[layer].mean(dim=1)[:, 1:]
        torch.testing.assert_close(got_tokens, mean / mean.sum(-1, keepdim=True))
        # Leaving the class key out inside the softmax is the same as renormalising each head without it.
        heads = rows[layer][..., 1:]
        torch.testing.assert_close(got_patches, (heads / heads.sum(-1, keepdim=True)).mean(dim=1))
    assert (tokens - patches).abs().max() > 1e-4


@pytest.mark.parametrize("structure", ["dv", "vvv", "qqv", "kkv", "qkv", "qqq", "kqv", "dq", "dk", "vqk"])
@pytest.mark.parametrize("dual_blocks", [1, 2, 4])
def test_guide_is_the_second_path_spelt_out(
    make: MakeBackbone, images: Tensor, structure: str, dual_blocks: int
) -> None:
    backbone = make()
    for keep_mlp in (False, True):
        got = backbone.dense(images, (), structure, dual_blocks, keep_mlp=keep_mlp).guide
        literal = slow_guide(backbone, images, structure, dual_blocks, keep_mlp)
        torch.testing.assert_close(got, literal, atol=2e-5, rtol=1e-4)


def test_original_structure_with_its_mlps_is_the_original_path(make: MakeBackbone, images: Tensor) -> None:
    dense = make().dense(images, (), "Q-K-V", 4, keep_mlp=True)
    torch.testing.assert_close(dense.guide, dense.patches, atol=1e-5, rtol=1e-4)
    without = make().dense(images, (), "Q-K-V", 4)
    assert (without.guide - without.patches).abs().max() > 0.01


def test_half_of_the_blocks_are_dual_by_default(make: MakeBackbone, images: Tensor) -> None:
    backbone = make()
    assert torch.equal(backbone.dense(images, (), "dv").guide, backbone.dense(images, (), "dv", 2).guide)


def gradients(backbone: Backbone, loss: Tensor) -> dict[str, Tensor]:
    backbone.zero_grad(set_to_none=True)
    loss.backward()
    visual = backbone.model.visual
    return {name: p.grad for name, p in visual.named_parameters() if p.grad is not None}


def test_detached_guide_carries_no_gradient(make: MakeBackbone, images: Tensor) -> None:
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
    reached = gradients(backbone, attached.guide.sum())
    assert reached["transformer.resblocks.3.attn.in_proj_weight"].abs().sum() > 0
    assert reached["conv1.weight"].abs().sum() > 0


def test_attached_guide_has_the_gradient_of_the_slow_one(make: MakeBackbone, images: Tensor) -> None:
    backbone = make()
    fast = backbone.dense(images, (), "vvv", 2, detach_guide=False).guide
    assert fast is not None
    got = gradients(backbone, fast.square().sum())
    slow = gradients(backbone, slow_guide(backbone, images, "vvv", 2).square().sum())
    for name in got:
        torch.testing.assert_close(got[name], slow[name], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("over", ["patches", "tokens"])
def test_attention_alignment_trains_queries_and_keys_of_aligned_layers_only(
    make: MakeBackbone, images: Tensor, over: Any
) -> None:
    backbone = make()
    dense = backbone.dense(images, [0, 1], "dv", 2, attention_over=over)
    text, labels = torch.randn(5, 16), torch.tensor([0, 3, 1])
    assert dense.guide is not None
    log_guide = losses.log_similarity_distribution(dense.guide, text, labels, 0.1)
    loss = losses.attention_alignment(losses.class_attention(dense.cls_attention), log_guide)
    reached = gradients(backbone, loss)
    width = 32
    for layer in (0, 1):
        gradient = reached[f"transformer.resblocks.{layer}.attn.in_proj_weight"]
        q, k, v = gradient.split(width)
        assert q.abs().sum() > 0 and k.abs().sum() > 0
        assert (v.abs().sum() > 0) == (
            layer == 0
        )  # values of the last aligned layer come after its attention
    for name in reached:
        assert not name.startswith(("transformer.resblocks.2", "transformer.resblocks.3", "ln_post", "proj"))
    assert {"conv1.weight", "class_embedding", "positional_embedding"} <= reached.keys()


def test_guide_does_not_cut_gradients_under_autocast(make: MakeBackbone, images: Tensor) -> None:
    # Autocast caches half-precision weights; one cached without gradient would starve the original path.
    backbone = make()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        dense = backbone.dense(images, [0, 1, 2, 3], "dv", 4)
        assert dense.cls_attention.dtype == torch.float32
        reached = gradients(backbone, dense.image.float().square().sum() + dense.patches.float().sum())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = gradients(
            backbone,
            (d := backbone.dense(images)).image.float().square().sum() + d.patches.float().sum(),
        )
    assert reached.keys() == plain.keys() == dict(backbone.model.visual.named_parameters()).keys()
    for name in reached:
        assert (reached[name] - plain[name]).norm() <= 0.05 * plain[name].norm() + 1e-3


def test_checkpointing_changes_memory_only(make: MakeBackbone, images: Tensor) -> None:
    backbone = make()

    def run(dense: bool) -> tuple[dict[str, Tensor], int]:
        """Gradients, and how many numbers the forward pass kept for them."""
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
            if dense:
                out = backbone.dense(images, [0, 1, 2, 3], "dv", 2)
                loss = out.image.square().sum() + out.cls_attention.square().sum() + out.patches.sum()
            else:
                loss = backbone.encode_image(images).square().sum()
        return gradients(backbone, loss), sum(kept)

    for dense in (False, True):
        backbone.set_grad_checkpointing(False)
        known, much = run(dense)
        backbone.set_grad_checkpointing(True)
        got, little = run(dense)
        assert little < 0.7 * much
        assert got.keys() == known.keys()
        for name in got:
            torch.testing.assert_close(got[name], known[name])


def test_patch_dropout_drops_in_training_only(make: MakeBackbone, images: Tensor) -> None:
    backbone = make(vision={"patch_dropout": 0.5})
    torch.testing.assert_close(backbone.dense(images).image, backbone.model.encode_image(images))
    dense = backbone.train().dense(images, [1], "dv")
    assert dense.patches.shape[1] == dense.cls_attention.shape[2] == 6
    assert dense.guide is not None and dense.guide.shape[1] == 6
    torch.testing.assert_close(dense.cls_attention.sum(-1), torch.ones(1, 3))


@pytest.mark.parametrize(
    ("vision", "message"),
    [
        ({"pool_type": "avg"}, "class token"),
        ({"attentional_pool": True}, "class token"),
        ({"qk_norm": True}, "block 0"),
        ({"scale_attn": True}, "block 0"),
        ({"scaled_cosine_attn": True, "block_type": "custom"}, "block 0"),
    ],
)
def test_towers_that_would_be_wrong_are_refused(
    make: MakeBackbone, vision: dict[str, Any], message: str
) -> None:
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
def test_bad_requests_are_refused(
    make: MakeBackbone, images: Tensor, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        make().dense(images, **arguments)


def test_images_of_another_size_are_refused(make: MakeBackbone) -> None:
    with pytest.raises(UserError, match="images of 32 x 24 pixels"):
        make().dense(torch.zeros(1, 3, 32, 24))
    with pytest.raises(UserError, match="which takes 24 x 32"):
        make().encode_image(torch.zeros(1, 3, 32, 32))


def test_facts_of_the_tower(make: MakeBackbone) -> None:
    backbone = make()
    assert (backbone.kind, backbone.num_blocks, backbone.grid, backbone.image_size) == (
        "vit",
        4,
        (3, 4),
        (24, 32),
    )
    assert (backbone.embed_dim, backbone.context_length) == (16, 20)
    assert backbone.mean == (0.5, 0.5, 0.5) and backbone.std == (0.25, 0.25, 0.25)
    assert (backbone.logit_scale * backbone.temperature).item() == pytest.approx(1)
    image_parameters = {id(p) for p in backbone.image_parameters()}
    assert image_parameters == {id(p) for p in backbone.model.visual.parameters()}


def test_vit_b_16_at_224() -> None:
    backbone = load("ViT-B-16:random")
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        dense = backbone.dense(images, range(4), "dv")
        known = backbone.model.encode_image(images)
        rows = rows_of_multihead_attention(backbone, images)
        literal = slow_guide(backbone, images, "dv", 6)
    assert backbone.grid == (14, 14) and backbone.num_blocks == 12
    assert dense.patches.shape == (1, 196, 512) and dense.cls_attention.shape == (4, 1, 196)
    torch.testing.assert_close(dense.image, known, atol=1e-5, rtol=1e-4)
    heads = rows[3][..., 1:]
    torch.testing.assert_close(dense.cls_attention[3], (heads / heads.sum(-1, keepdim=True)).mean(dim=1))
    torch.testing.assert_close(dense.guide, literal, atol=1e-5, rtol=1e-4)
