"""CLIP and SigLIP of transformers, loaded from folders with random weights, against transformers' own features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from clipalign.backbone import huggingface, load
from clipalign.core.errors import UserError
from tests.helpers.families import WORDS, write_tokenizer

TEXTS = ["a photo of a cat", "two red dogs"]
SIZE = {"hidden_size": 32, "intermediate_size": 75, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def noisy(model: Any) -> Any:
    """Return the model with noise in every parameter; the global RNG state is unchanged."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        for parameter in model.parameters():
            if parameter.dim():
                parameter.copy_(0.2 * torch.randn_like(parameter))
    return model.eval()


def write_clip(folder: Path, act: str = "quick_gelu", **text: Any) -> Any:
    config = transformers.CLIPConfig(
        projection_dim=24,
        vision_config={**SIZE, "image_size": 32, "patch_size": 8, "hidden_act": act, "layer_norm_eps": 1e-3},
        text_config={**SIZE, "vocab_size": len(WORDS) + 2, "max_position_embeddings": 12, "hidden_act": act,
                     "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, **text},
    )  # fmt: skip
    model = noisy(transformers.CLIPModel(config))
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return model


def write_siglip(folder: Path, act: str = "gelu_pytorch_tanh") -> Any:
    config = transformers.SiglipConfig(
        vision_config={**SIZE, "image_size": 32, "patch_size": 8, "hidden_act": act},
        text_config={**SIZE, "vocab_size": len(WORDS) + 2, "max_position_embeddings": 12, "hidden_act": act,
                     "projection_size": 32},
    )  # fmt: skip
    model = noisy(transformers.SiglipModel(config))
    model.save_pretrained(folder)
    write_tokenizer(folder)
    processor = {
        "image_mean": [0.4] * 3,
        "image_std": [0.3] * 3,
        "resample": 2,
        "size": {"height": 32, "width": 32},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return model


def features(model: Any, images: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return transformers' unit-norm features."""
    with torch.no_grad():
        out = model(pixel_values=images, input_ids=ids)
    return out.image_embeds, out.text_embeds


def assert_same(folder: Path, model: Any, images: Tensor) -> Any:
    backbone = load(f"hf:{folder}")
    expected = features(model, images, backbone.tokenize(TEXTS).ids)
    with torch.no_grad():
        actual = backbone.encode_image(images), backbone.encode_text(TEXTS)
    for one, other in zip(actual, expected, strict=True):
        unit = torch.nn.functional.normalize(one, dim=-1)
        torch.testing.assert_close(unit, other, atol=1e-5, rtol=0)
    torch.testing.assert_close(backbone.logit_scale, model.logit_scale.exp().reshape(()))
    return backbone


@pytest.mark.parametrize("act", ["quick_gelu", "gelu", "gelu_pytorch_tanh"])
def test_clip_features_match_transformers(tmp_path: Path, images: Tensor, act: str) -> None:
    backbone = assert_same(tmp_path, write_clip(tmp_path, act), images)
    assert backbone.kind == "vit" and backbone.image_size == (32, 32) and backbone.embed_dim == 24
    assert "text prompts" in backbone.capabilities and backbone.context_length == 12
    assert backbone.resize == "shortest"


def test_siglip_features_match_transformers(tmp_path: Path, images: Tensor) -> None:
    model = write_siglip(tmp_path)
    backbone = assert_same(tmp_path, model, images)
    assert (
        backbone.kind == "pooled-vit" and backbone.resize == "squash" and backbone.interpolation == "bilinear"
    )
    assert backbone.mean == (0.4,) * 3 and backbone.std == (0.3,) * 3
    torch.testing.assert_close(backbone.logit_bias, model.logit_bias.reshape(()))
    larger = load(f"hf:{tmp_path}@48")
    assert larger.grid == (6, 6)


def test_weights_in_parts_are_joined(tmp_path: Path, images: Tensor) -> None:
    model = write_clip(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    names = sorted(state)
    parts = {f"model-0000{i}-of-00002.safetensors": names[i - 1 :: 2] for i in (1, 2)}
    for file, of in parts.items():
        save_file({name: state[name] for name in of}, tmp_path / file)
    index = {name: file for file, of in parts.items() for name in of}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert_same(tmp_path, model, images)


def test_without_weights_only_the_configuration_is_read(tmp_path: Path) -> None:
    write_clip(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    first, again = (load(f"hf:{tmp_path}", pretrained=False, seed=2) for _ in range(2))
    assert torch.equal(first.model.visual.proj, again.model.visual.proj)


def test_repository_is_downloaded_without_pickled_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: Tensor
) -> None:
    model, patterns = write_clip(tmp_path), []

    def download(repository: str, cache_dir: str | None, allow_patterns: list[str]) -> str:
        assert repository == "someone/tiny"
        patterns.extend(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface, "snapshot_download", download)
    backbone = load("hf:someone/tiny")
    torch.testing.assert_close(
        torch.nn.functional.normalize(backbone.encode_image(images).detach(), dim=-1),
        features(model, images, backbone.tokenize(TEXTS).ids)[0],
        atol=1e-5,
        rtol=0,
    )
    assert "model.safetensors" in patterns and not any(".bin" in pattern for pattern in patterns)


def test_unreachable_repository_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: Any, **kwargs: Any) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(huggingface, "snapshot_download", unreachable)
    with pytest.raises(UserError, match=r"hf:openai/clip: .*Name or service.*--backbone hf:FOLDER"):
        load("hf:openai/clip")


def test_bad_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a folder nor a repository"):
        load("hf:/nowhere/at/all")
    with pytest.raises(UserError, match=r"cannot read .*config\.json"):
        load(f"hf:{tmp_path}")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match='of type "bert"; clip and siglip are supported'):
        load(f"hf:{tmp_path}")
    write_clip(tmp_path)
    weights = tmp_path / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:1000])
    with pytest.raises(UserError, match=r"cannot read weights in .*truncated"):
        load(f"hf:{tmp_path}")
    save_file(
        {k: v for k, v in load_state(content, tmp_path).items() if "visual_projection" not in k}, weights
    )
    with pytest.raises(UserError, match=r"missing visual\.proj"):
        load(f"hf:{tmp_path}")
    weights.rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"only pytorch_model.bin, which is pickled.*save_pretrained"):
        load(f"hf:{tmp_path}")


def load_state(content: bytes, folder: Path) -> dict[str, Tensor]:
    file = folder / "copy.safetensors"
    file.write_bytes(content)
    state = load_file(file)
    file.unlink()
    return state
