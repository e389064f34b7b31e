"""Every family of open_clip architectures: features, image tokens, attention and preprocessing, with random weights."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor, nn

from clipalign.backbone import Backbone, load, loading, pooled_vit, preprocess_for
from clipalign.backbone.families import FAMILIES
from clipalign.backbone.network import quiet
from clipalign.core.config import ModelOptions
from clipalign.core.errors import UserError
from clipalign.data.decode import evaluation_view
from tests.helpers.families import KINDS, VISION, write_family

TEXTS = ["a photo of a cat.", "two dogs", "a red kite, a blue boat, and an old square"]
CLASS_TOKEN = ["eva01", "eva02", "eva02-e", "mobileclip"]
POOLED = ["siglip", "pe", "pe-bigg", "coca"]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a function from the name of a family to the `--backbone` of its tiny member."""
    root = tmp_path_factory.mktemp("families")
    return cache(lambda name: write_family(name, root / name))


@pytest.fixture
def backbone(folders: Any, request: pytest.FixtureRequest) -> Backbone:
    return load(folders(request.getfixturevalue("family")))


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("family", VISION)
def test_features_match_open_clip(backbone: Backbone, images: Tensor, family: str) -> None:
    model, ids = backbone.model, backbone.tokenize(TEXTS).ids
    assert backbone.kind == KINDS[family]
    with torch.no_grad():
        close(backbone.encode_image(images), model.encode_image(images, normalize=False))
        close(backbone.encode_text(TEXTS), model.encode_text(ids, normalize=False))
        assert backbone.encode_image(images).shape == (3, backbone.embed_dim)
    assert (backbone.mean, backbone.std) == ((0.5,) * 3, (0.25,) * 3)
    assert (backbone.interpolation, backbone.resize) == ("bilinear", "squash")
    assert float(backbone.logit_bias) == (-10 if family == "siglip" else 0)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-5)


@pytest.mark.parametrize("family", [*CLASS_TOKEN, *POOLED])
def test_dense_pass_gives_the_same_image_features(backbone: Backbone, images: Tensor, family: str) -> None:
    with torch.no_grad():
        dense = backbone.dense(images, [0, -1], "dv")
        close(dense.image, backbone.model.encode_image(images, normalize=False))
    assert dense.patches.shape == (3, 16, backbone.embed_dim) and dense.guide is not None
    torch.testing.assert_close(dense.cls_attention.sum(-1), torch.ones(2, 3))


@pytest.mark.parametrize("family", [*CLASS_TOKEN, *POOLED])
def test_trace_agrees_with_dense(backbone: Backbone, images: Tensor, family: str) -> None:
    last = backbone.num_blocks - 1
    structure = "vvv" if backbone.has_structure("qqv") else "kkv"
    with torch.no_grad():
        trace = backbone.trace(images)
        for over in ("patches", "tokens"):
            dense = backbone.dense(images, [0, last], structure, 1, attention_over=over, keep_mlp=True)  # type: ignore[arg-type]
            attention = trace.class_attention([0, last], over=over)  # type: ignore[arg-type]
            torch.testing.assert_close(attention, dense.cls_attention.mean(dim=0))
        close(trace.image, dense.image)
        close(trace.patches, dense.patches)
        close(trace.patch_features(structure, [last], keep_mlp=True), dense.guide)
        torch.testing.assert_close(trace.rollout([last]), trace.class_attention([last], over="tokens"))
        heads = [trace.patch_features("dv", [last], [head]) for head in range(trace.num_heads)]
    assert len(heads) > 1 and not torch.allclose(heads[0], heads[1], atol=1e-4)
    if family in POOLED:
        with pytest.raises(UserError, match="has one query and none per patch"):
            trace.patch_features("qkv")


@pytest.mark.parametrize("family", CLASS_TOKEN)
def test_class_attention_matches_timm(backbone: Backbone, images: Tensor, family: str) -> None:
    rows: list[Tensor] = []
    for block in backbone.model.visual.trunk.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(
            lambda module, inputs, output: rows.append(output[:, :, 0])
        )
    with torch.no_grad():
        backbone.model.encode_image(images)
        expected = [row.mean(dim=1)[:, 1:] for row in rows]  # [B, H, N] -> [B, M]
        actual = backbone.dense(images, [0, 2], attention_over="tokens").cls_attention
    for attention, row in zip(actual, (expected[0], expected[2]), strict=True):
        torch.testing.assert_close(attention, row / row.sum(-1, keepdim=True))


@pytest.mark.parametrize("family", CLASS_TOKEN)
def test_guide_with_qkv_and_mlps_is_the_original_path(
    backbone: Backbone, images: Tensor, family: str
) -> None:
    with torch.no_grad():
        dense = backbone.dense(images, (), "qkv", 3, keep_mlp=True)
        assert dense.guide is not None
        close(dense.guide, dense.patches)
        guide = backbone.dense(images, (), "dv", 2).guide
    assert guide is not None and not torch.allclose(guide, dense.patches, atol=1e-3)


@pytest.mark.parametrize("family", ["siglip", "pe"])
def test_pooling_attention_matches_multihead_attention(
    backbone: Backbone, images: Tensor, family: str
) -> None:
    pool: Any = backbone.model.visual.trunk.attn_pool
    attention = nn.MultiheadAttention(32, pool.num_heads, batch_first=True)
    attention.in_proj_weight.data = torch.cat([pool.q.weight, pool.kv.weight])
    attention.in_proj_bias.data = torch.cat([pool.q.bias, pool.kv.bias])
    seen: list[Tensor] = []
    pool.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        backbone.model.encode_image(images)
        row = attention(pool.latent.expand(3, -1, -1), seen[0], seen[0])[1][:, 0, -16:]  # [B, M]
        actual = backbone.dense(images, [0], attention_over="tokens").cls_attention[0]
    torch.testing.assert_close(actual, row / row.sum(-1, keepdim=True))


def test_pooling_attention_of_coca_matches_its_own_weights(folders: Any, images: Tensor) -> None:
    backbone = load(folders("coca"))
    pool: Any = backbone.model.visual.attn_pool
    seen: list[Tensor] = []
    pool.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        backbone.model.encode_image(images)
        x = pool.ln_k(seen[0])
        weights = pool.attn(pool.ln_q(pool.query).expand(3, -1, -1), x, x)[1]  # [B, queries, 1 + M]
        actual = backbone.dense(images, [0], attention_over="tokens").cls_attention[0]
    row = weights[:, 0, 1:]
    torch.testing.assert_close(actual, row / row.sum(-1, keepdim=True))


@pytest.mark.parametrize("family", POOLED)
def test_patch_feature_is_the_image_feature_of_that_patch_alone(
    backbone: Backbone, images: Tensor, family: str
) -> None:
    reader = pooled_vit.pool_of(backbone.model.visual)
    with torch.no_grad():
        x = reader.tokens(images, backbone._hooks)
        patch = x[:, reader.prefix + 5 : reader.prefix + 6].expand(-1, 7, -1)  # [B, 7, W], all the same token
        dense = backbone.dense(images, (), "dv")
        close(dense.patches[:, 5], pooled_vit._attend(reader, patch))
        assert dense.guide is not None
        close(dense.guide, dense.patches)
        assert not torch.allclose(backbone.dense(images, (), "kkv").guide, dense.patches, atol=1e-3)
        with pytest.raises(UserError, match="has one query and none per patch"):
            backbone.dense(images, (), "qqv")


@pytest.mark.parametrize("family", VISION)
def test_gradient_checkpointing_keeps_features_and_gradients(
    backbone: Backbone, images: Tensor, family: str
) -> None:
    weights = [p for p in backbone.image_parameters() if p.requires_grad]
    gradients = []
    for enable in (False, True):
        if not (enable and family == "hf-text"):  # RoBERTa's checkpointing needs training mode
            backbone.set_grad_checkpointing(enable)
        backbone.zero_grad()
        backbone.encode_image(images).square().sum().backward()
        gradients.append([p.grad.clone() for p in weights if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 5
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("family", VISION)
def test_tap_receives_the_stem_and_every_layer(backbone: Backbone, images: Tensor, family: str) -> None:
    seen: dict[int, Tensor] = {}
    with torch.no_grad(), backbone.hooks(tap=lambda tower, layer, output: seen.update({layer: output})):
        tapped = backbone.encode_image(images)
    assert sorted(seen) == list(range(-1, backbone.num_layers)) and backbone.num_layers >= 3
    assert {tensor.dim() for tensor in seen.values()} <= {3, 4}
    with torch.no_grad():
        assert torch.equal(backbone.encode_image(images), tapped)


@pytest.mark.parametrize(
    "family", ["eva02", "mobileclip", "siglip", "pe", "clipa", "coca", "convnext", "vitamin"]
)
def test_image_size_can_change(folders: Any, family: str) -> None:
    own, larger = load(folders(family)), load(f"{folders(family)}@48")
    assert larger.image_size == (48, 48)
    with torch.no_grad():
        features = larger.encode_image(torch.rand(1, 3, 48, 48))
    assert features.shape == (1, own.embed_dim) and bool(features.isfinite().all())
    if own.num_blocks:
        assert larger.grid == (6, 6)
    same = load(f"{folders(family)}@32")
    for name, tensor in own.model.state_dict().items():
        assert torch.equal(tensor, same.model.state_dict()[name])


# What is missing, and how it is said


@pytest.mark.parametrize("family", ["convnext", "clipa", "vitamin", "mobileclip-s"])
def test_missing_image_tokens_name_the_towers_that_have_them(
    backbone: Backbone, images: Tensor, family: str
) -> None:
    with pytest.raises(
        UserError, match=r"needs image tokens.*tower that pools by averaging.*ViT-B-16-SigLIP"
    ):
        backbone.dense(images)
    with pytest.raises(UserError, match=r"needs image tokens"):
        backbone.trace(images)
    with pytest.raises(UserError, match=r"--pooling patches needs image tokens"):
        backbone.configure(ModelOptions(pooling="patches"))


def test_prompts_are_offered_by_causal_text_towers_only(folders: Any) -> None:
    for family in ("vit", "eva02", "pe", "convnext"):
        assert "text prompts" in load(folders(family)).capabilities
    for family in ("siglip", "clipa", "coca", "hf-text", "mobileclip-s"):
        backbone = load(folders(family))
        assert "text prompts" not in backbone.capabilities
        with pytest.raises(UserError, match="causal text tower"):
            backbone.embed_tokens(backbone.tokenize(["a cat"]).ids)
    assert "image prompts" not in load(folders("eva02")).capabilities  # rotary positions
    assert "image prompts" in load(folders("mobileclip")).capabilities


def test_blocks_that_would_be_computed_wrongly_leave_only_features(folders: Any, images: Tensor) -> None:
    backbone = load(folders("mobileclip"))
    trunk: Any = backbone.model.visual.trunk
    trunk.blocks[1].attn.gate = nn.Linear(32, 32)
    changed = Backbone(backbone.model, backbone.tokenizer, "gated")
    assert changed.kind == "other" and "image tokens" not in changed.capabilities
    with torch.no_grad():
        close(changed.encode_image(images), backbone.model.encode_image(images))


def test_families_have_distinct_names_and_cover_all_kinds() -> None:
    assert set(KINDS.values()) == set(FAMILIES)
    assert len({family.name for family in FAMILIES.values()}) == len(FAMILIES)


# Texts and images


def test_tokenizer_in_the_folder_reports_truncated_texts(folders: Any) -> None:
    for family in ("siglip", "clipa", "hf-text"):
        backbone = load(folders(family))
        length = backbone.tokenize(["a cat"]).ids.shape[1]
        exact, over = " ".join(["cat"] * (length - 1)), " ".join(["cat"] * length)
        tokens = backbone.tokenize(["a cat", exact, over])
        assert tokens.num_truncated == 1 and tokens.longest == length + 1
        assert tokens.lengths[1] in (length - 1, length)  # the end token is padding too


def test_squashed_images_match_open_clips_transform(folders: Any) -> None:
    backbone = load(folders("siglip"))
    image = Image.fromarray((torch.rand(40, 64, 3) * 255).byte().numpy())
    preprocess = preprocess_for(backbone)
    expected = image_transform_v2(
        PreprocessCfg(**{**backbone.model.visual.preprocess_cfg, "size": 32}), is_train=False
    )(image)
    torch.testing.assert_close(preprocess.normalise(evaluation_view(image, preprocess)[None])[0], expected)


def test_files_have_the_preprocessing_on_which_all_tags_agree() -> None:
    siglip = loading._common_preprocess("ViT-B-16-SigLIP")
    assert siglip["resize_mode"] == "squash" and siglip["mean"] == (0.5, 0.5, 0.5)
    assert "mean" not in loading._common_preprocess("ViT-L-14")  # its tags differ
    assert loading._common_preprocess("no tags") == {}


LARGE = {
    "EVA02-E-14": "timm-vit",
    "MobileCLIP-B": "timm-vit",
    "PE-Core-bigG-14-448": "pooled-vit",
    "ViT-SO400M-14-SigLIP": "pooled-vit",
    "ViTamin-XL-384": "other",
    "MobileCLIP2-S4": "other",
}


@pytest.mark.parametrize(("name", "kind"), LARGE.items())
def test_published_architecture_belongs_to_its_family(name: str, kind: str) -> None:
    """On the meta device, which allocates no weights."""
    with quiet(), torch.device("meta"):
        model = open_clip.create_model(name, device="meta", pretrained_text=False)
    assert Backbone(model, lambda texts: torch.zeros(1, 1), name).kind == kind


def test_repository_name_gives_the_spelling(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"write hf:openai/clip-vit-base-patch32, .* hf-hub:openai/clip-vit"):
        load("openai/clip-vit-base-patch32")
