"""Checkpoints in the layouts of facebookresearch/SLIP and Sense-GVT/DeCLIP, with random weights.

The expected features are computed from the published names: by timm's ViT, or by the equations of CLIP's blocks below.
"""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional as F

from clipalign.backbone import Backbone, load, pocket, slip
from clipalign.backbone.checkpoints import read_state_dict
from tests.helpers.weights import State

TEXTS = ["a cat", "a red apple on a table"]
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
EMBED_DIM = 24
TEXT = {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
VISION = {"image_size": 32, "patch_size": 8, "layers": 2, "width": 48, "head_width": 12}
TINY_SLIP = {
    "embed_dim": EMBED_DIM,
    "quick_gelu": True,
    "vision_cfg": {**VISION, "no_ln_pre": True, "norm_kwargs": {"eps": 1e-6}},
    "text_cfg": TEXT,
}
TINY_DECLIP = {
    "embed_dim": EMBED_DIM,
    "quick_gelu": True,
    "vision_cfg": VISION,
    "text_cfg": {**TEXT, "proj_bias": True},
}


@pytest.fixture(autouse=True)
def tiny_architectures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register "tiny-slip" and "tiny-declip" for one test."""
    pocket.register()
    slip.register()  # rescans the registry
    configs = open_clip.factory._MODEL_CONFIGS
    monkeypatch.setitem(configs, "tiny-slip", TINY_SLIP)
    monkeypatch.setitem(configs, "tiny-declip", TINY_DECLIP)
    monkeypatch.setattr(slip, "NAMES", (*slip.NAMES, "tiny-slip", "tiny-declip"))
    monkeypatch.setattr(slip, "EXACT_GELU", slip.EXACT_GELU | {"tiny-slip"})


def blocks(prefix: str, width: int, layers: int) -> State:
    """Return the tensors of CLIP's transformer blocks."""
    shapes = {
        "ln_1.weight": (width,),
        "ln_1.bias": (width,),
        "attn.in_proj_weight": (3 * width, width),
        "attn.in_proj_bias": (3 * width,),
        "attn.out_proj.weight": (width, width),
        "attn.out_proj.bias": (width,),
        "ln_2.weight": (width,),
        "ln_2.bias": (width,),
        "mlp.c_fc.weight": (4 * width, width),
        "mlp.c_fc.bias": (4 * width,),
        "mlp.c_proj.weight": (width, 4 * width),
        "mlp.c_proj.bias": (width,),
    }
    return {
        f"{prefix}resblocks.{i}.{name}": 0.3 * torch.randn(shape)
        for i in range(layers)
        for name, shape in shapes.items()
    }


def text_tower(width: int, layers: int, context_length: int, tokens: int) -> State:
    """Return the tensors of CLIP's text tower without its projection."""
    return {
        "positional_embedding": torch.randn(context_length, width),
        "token_embedding.weight": torch.randn(tokens, width),
        "ln_final.weight": torch.randn(width),
        "ln_final.bias": torch.randn(width),
        **blocks("transformer.", width, layers),
    }


def slip_state(vit: VisionTransformer, text: dict[str, int], embed_dim: int) -> State:
    """Return random weights in the layout of facebookresearch/SLIP."""
    width, layers = text["width"], text["layers"]
    return {
        "image_projection": torch.randn(vit.embed_dim, embed_dim),
        "text_projection": torch.randn(width, embed_dim),
        "logit_scale": torch.tensor(3.5),
        **{f"visual.{name}": 0.3 * torch.randn_like(value) for name, value in vit.state_dict().items()},
        **text_tower(width, layers, text["context_length"], 49408),
        "image_mlp.layer1.weight": torch.randn(5, vit.embed_dim),
        "image_mlp.bn1.running_mean": torch.zeros(5),
        "image_mlp.bn1.num_batches_tracked": torch.tensor(7),
    }


def declip_state(prefix: str, vision: dict[str, int], text: dict[str, int], embed_dim: int) -> State:
    """Return random weights in the layout of Sense-GVT/DeCLIP."""
    width, patch = vision["width"], vision["patch_size"]
    patches = (vision["image_size"] // patch) ** 2
    tower = {
        **text_tower(text["width"], text["layers"], text["context_length"], 49409),
        "text_projection.weight": torch.randn(embed_dim, text["width"]),
        "text_projection.bias": torch.randn(embed_dim),
    }
    return {
        "logit_scale": torch.tensor([3.5]),
        "visual.class_embedding": torch.randn(width),
        "visual.positional_embedding": torch.randn(1 + patches, width),
        "visual.proj": torch.randn(width, embed_dim),
        "visual.conv1.weight": torch.randn(width, 3, patch, patch),
        **{
            f"visual.{norm}.{name}": torch.randn(width)
            for norm in ("ln_pre", "ln_post")
            for name in ("weight", "bias")
        },
        **blocks("visual.transformer.", width, vision["layers"]),
        **{f"{prefix}{name}": value for name, value in tower.items()},
        "projector.linear1.weight": torch.randn(5, embed_dim),
        "predictor.bn1.running_var": torch.ones(5),
        "predictor_sim.linear1.weight": torch.randn(5, width),
        "text_label_predictor.weight": torch.randn(5, text["width"]),
    }


def layer_norm(state: State, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def run_blocks(state: State, prefix: str, x: Tensor, layers: int, heads: int, causal: bool) -> Tensor:
    """Apply CLIP's blocks with QuickGELU: [B, N, W] -> [B, N, W]."""
    for i in range(layers):
        name = f"{prefix}resblocks.{i}"
        projected = F.linear(
            layer_norm(state, f"{name}.ln_1", x),
            state[f"{name}.attn.in_proj_weight"],
            state[f"{name}.attn.in_proj_bias"],
        )
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in projected.chunk(3, dim=-1))
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5  # [B, H, N, N]
        if causal:
            later = torch.ones_like(scores[0, 0], dtype=torch.bool).triu(1)
            scores = scores.masked_fill(later, -torch.inf)
        mixed = (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)  # [B, N, W]
        x = x + F.linear(mixed, state[f"{name}.attn.out_proj.weight"], state[f"{name}.attn.out_proj.bias"])
        hidden = F.linear(
            layer_norm(state, f"{name}.ln_2", x),
            state[f"{name}.mlp.c_fc.weight"],
            state[f"{name}.mlp.c_fc.bias"],
        )
        hidden = hidden * torch.sigmoid(1.702 * hidden)
        x = x + F.linear(hidden, state[f"{name}.mlp.c_proj.weight"], state[f"{name}.mlp.c_proj.bias"])
    return x


def end_states(state: State, ids: Tensor) -> Tensor:
    """Return the normalised states of the end tokens, which have the largest id: [B, L] -> [B, W]."""
    x = state["token_embedding.weight"][ids] + state["positional_embedding"]
    x = run_blocks(state, "transformer.", x, TEXT["layers"], TEXT["heads"], causal=True)
    return layer_norm(state, "ln_final", x)[torch.arange(len(ids)), ids.argmax(dim=-1)]


def save(state: State, path: Path, key: str) -> Path:
    torch.save({key: {f"module.{name}": value for name, value in state.items()}, "epoch": 25}, path)
    return path


def tiny_vit() -> VisionTransformer:
    return VisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=4, num_classes=0)


@pytest.fixture
def slip_weights() -> State:
    torch.manual_seed(0)
    return slip_state(tiny_vit(), TEXT, EMBED_DIM)


def assert_published_preprocessing(backbone: Backbone) -> None:
    assert backbone.mean == pytest.approx((0.485, 0.456, 0.406))
    assert backbone.std == pytest.approx((0.229, 0.224, 0.225))
    assert backbone.interpolation == "bilinear"


@torch.no_grad()
def test_slip_checkpoint_gives_the_features_of_timms_vit_and_clips_text_tower(
    slip_weights: State, tmp_path: Path
) -> None:
    backbone = load(f"tiny-slip:{save(slip_weights, tmp_path / 'slip_tiny.pt', 'state_dict')}")
    vit = tiny_vit().eval()
    vit.load_state_dict(
        {k.removeprefix("visual."): v for k, v in slip_weights.items() if k.startswith("visual.")}
    )
    expected = vit(IMAGES) @ slip_weights["image_projection"]
    torch.testing.assert_close(backbone.encode_image(IMAGES), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(backbone.dense(IMAGES).image, expected, rtol=1e-4, atol=1e-4)
    tokens = backbone.tokenizer(TEXTS)
    expected = end_states(slip_weights, tokens) @ slip_weights["text_projection"]
    torch.testing.assert_close(backbone.encode_text(TEXTS), expected, rtol=1e-4, atol=1e-4)
    assert backbone.logit_scale.item() == pytest.approx(np.exp(3.5))
    assert_published_preprocessing(backbone)


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["encode_text.", "text_encoder."])
def test_declip_checkpoint_gives_the_features_of_its_published_towers(prefix: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = declip_state(prefix, VISION, TEXT, EMBED_DIM)
    backbone = load(f"tiny-declip:{save(state, tmp_path / 'vitb32.pth.tar', 'model')}")

    x = F.conv2d(IMAGES, state["visual.conv1.weight"], stride=8).flatten(2).transpose(1, 2)  # [B, M, W]
    x = torch.cat([state["visual.class_embedding"].expand(2, 1, -1), x], dim=1)  # [B, 1 + M, W]
    x = layer_norm(state, "visual.ln_pre", x + state["visual.positional_embedding"])
    x = run_blocks(state, "visual.transformer.", x, VISION["layers"], 4, causal=False)
    expected = layer_norm(state, "visual.ln_post", x[:, 0]) @ state["visual.proj"]
    torch.testing.assert_close(backbone.encode_image(IMAGES), expected, rtol=1e-4, atol=1e-4)

    text = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    tokens = backbone.tokenizer(TEXTS)
    published = tokens + (tokens >= 49406)  # DeCLIP's vocabulary has a mask token before the start token
    expected = F.linear(
        end_states(text, published), text["text_projection.weight"], text["text_projection.bias"]
    )
    torch.testing.assert_close(backbone.encode_text(TEXTS), expected, rtol=1e-4, atol=1e-4)
    assert backbone.logit_scale.item() == pytest.approx(np.exp(3.5))
    assert_published_preprocessing(backbone)


@pytest.mark.parametrize(
    ("name", "vit", "heads"),
    [
        ("SLIP-ViT-S-16", "vit_small_patch16_224", 12),
        ("SLIP-ViT-B-16", "vit_base_patch16_224", 12),
        ("SLIP-ViT-L-16", "vit_large_patch16_224", 16),
    ],
)
def test_slip_architectures_have_the_published_shapes(name: str, vit: str, heads: int) -> None:
    with torch.device("meta"):
        published = timm.create_model(vit, num_classes=0, num_heads=heads)
        state = slip_state(published, {"width": 512, "layers": 12, "context_length": 77}, 512)
        model = open_clip.create_model(name, load_weights=False, device="meta")
    expected = {k: v.shape for k, v in model.state_dict().items()}
    assert {k: v.shape for k, v in slip.to_open_clip(state).items()} == expected
    block = model.visual.transformer.resblocks[0]
    assert block.attn.num_heads == published.blocks[0].attn.num_heads == heads
    assert block.ln_1.eps == model.visual.ln_post.eps == published.norm.eps == 1e-6


@pytest.mark.parametrize(
    ("name", "embed_dim"),
    [("DeCLIP-ViT-B-32", 3072), ("DeCLIP-ViT-B-32-yfcc15m", 512), ("SLIP-ViT-B-32", 512)],
)
def test_declip_architectures_have_the_published_shapes(name: str, embed_dim: int) -> None:
    vision = {"image_size": 224, "patch_size": 32, "layers": 12, "width": 768}
    with torch.device("meta"):
        text = {"width": 512, "layers": 12, "context_length": 77}
        state = declip_state("encode_text.", vision, text, embed_dim)
        model = open_clip.create_model(name, load_weights=False, device="meta")
    shapes = {k: v.shape for k, v in slip.to_open_clip(state).items()}
    assert shapes.pop("logit_scale") == (1,)
    assert shapes == {k: v.shape for k, v in model.state_dict().items() if k != "logit_scale"}
    assert model.visual.transformer.resblocks[0].attn.num_heads == 12
    assert model.transformer.resblocks[0].attn.num_heads == 8


def test_all_architectures_are_tested() -> None:
    assert set(slip.NAMES) - {"tiny-slip", "tiny-declip"} == {
        "SLIP-ViT-S-16",
        "SLIP-ViT-B-16",
        "SLIP-ViT-L-16",
        "SLIP-ViT-B-32",
        "DeCLIP-ViT-B-32",
        "DeCLIP-ViT-B-32-yfcc15m",
    }


def test_random_weights_have_the_published_activations() -> None:
    backbone = load("tiny-slip:random")
    assert type(backbone.model.visual.transformer.resblocks[1].mlp.gelu) is torch.nn.GELU
    assert type(backbone.model.transformer.resblocks[1].mlp.gelu) is open_clip.transformer.QuickGELU


def test_published_training_state_is_read_without_executing_code(slip_weights: State, tmp_path: Path) -> None:
    """SLIP's files also hold the script's arguments and learning rates as NumPy numbers."""
    file = tmp_path / "slip.pt"
    arguments = argparse.Namespace(model="SLIP_VITB16", betas=(0.9, 0.98), output_dir=Path("/x"), gpu=0)
    lr: Any = np.float64(3e-3)
    torch.save(
        {
            "state_dict": {f"module.{name}": value for name, value in slip_weights.items()},
            "optimizer": {"param_groups": [{"lr": lr}], "state": {}},
            "args": arguments,
        },
        file,
    )
    older = as_older_numpy(file, tmp_path / "older.pt")
    for path in (file, older):
        assert read_state_dict(path).keys() == slip_weights.keys()


def as_older_numpy(source: Path, target: Path) -> Path:
    """Copy a checkpoint with the module name that NumPy 1 wrote for its numbers."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("data.pkl"):
                assert b"cnumpy._core.multiarray\n" in content
                content = content.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
            new.writestr(name, content)
    return target
