"""Loading by name, through open_clip's own code, with random weights in the real file formats."""

from __future__ import annotations

import json
import logging
import socket
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import open_clip
import pytest
import torch
from open_clip import pretrained as open_clip_pretrained
from open_clip.transformer import QuickGELU
from safetensors.torch import save_file
from torch import nn

from clipalign.backbone import list_backbones, load, loading, pocket
from clipalign.core.errors import UserError
from tests.helpers.backbones import build_clip
from tests.helpers.weights import ARCHITECTURE, State, as_safetensors, assert_has_weights, random_state

IMAGE = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
TEXTS = ["a cat", "a red apple"]


# The pocket backbone


def test_pocket_is_registered_with_open_clip() -> None:
    load("pocket:random")
    model = open_clip.create_model("clipalign-pocket")
    block = model.visual.transformer.resblocks[0]
    assert (model.visual.image_size, model.visual.grid_size, len(model.visual.transformer.resblocks)) == (
        (96, 96),
        (12, 12),
        6,
    )
    assert block.attn.num_heads == 3 and block.attn.embed_dim == 192 and block.mlp.c_fc.out_features == 768
    assert len(model.transformer.resblocks) == 4 and model.transformer.resblocks[0].attn.num_heads == 3
    assert model.positional_embedding.shape == (77, 192) and model.token_embedding.weight.shape == (
        49408,
        192,
    )
    assert model.text_projection.shape == (192, 256)
    assert type(block.mlp.gelu) is nn.GELU and block.mlp.gelu.approximate == "none"


def test_pocket_without_weights_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pocket, "WEIGHTS", tmp_path / "model.safetensors")
    with pytest.raises(
        UserError, match=r"weights file of the pocket backbone is missing: .*model\.safetensors"
    ):
        load("pocket")
    assert load("pocket", pretrained=False).spec == "pocket"


def test_pocket_weights_in_float16_are_loaded_as_float32(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    state = {k: v.half() for k, v in load("pocket:random", seed=5).model.state_dict().items()}
    monkeypatch.setattr(pocket, "WEIGHTS", tmp_path / "model.safetensors")
    save_file(state, pocket.WEIGHTS)
    backbone = load("pocket")
    assert_has_weights(backbone, state)
    assert not backbone.training and backbone.image_size == (96, 96) and backbone.embed_dim == 256
    assert backbone.mean == open_clip.OPENAI_DATASET_MEAN and backbone.std == open_clip.OPENAI_DATASET_STD
    assert_has_weights(load(f"pocket:{pocket.WEIGHTS}"), state)


def test_random_weights_are_seeded_without_changing_the_global_rng() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, again, other = (
        load("pocket:random"),
        load("pocket", pretrained=False),
        load("pocket:random", seed=1),
    )
    assert torch.equal(torch.rand(3), expected)
    images = torch.rand(1, 3, 96, 96)
    assert torch.equal(first.encode_image(images), again.encode_image(images))
    assert not torch.allclose(first.encode_image(images), other.encode_image(images))


# Tags


@pytest.fixture
def tags(tiny_architecture: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> State:
    """Add tags to "tiny": "exact" and "quick" are files, "far" is on the hub. Return the weights of the files."""
    state = random_state()
    file = str(as_safetensors(state, tmp_path / "tag"))
    mean = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "interpolation": "bilinear"}
    entries = {
        "exact": {"file": file, **mean},
        "quick": {"file": file, "quick_gelu": True},
        "far": {"hf_hub": "nobody/nothing/", "quick_gelu": True},
    }
    monkeypatch.setitem(open_clip_pretrained._PRETRAINED, "tiny", entries)
    return state


def has_quick_gelu(backbone: Any) -> bool:
    return any(isinstance(module, QuickGELU) for module in backbone.modules())


def test_tag_sets_weights_preprocessing_and_activation(tags: State) -> None:
    exact, quick = load("tiny:exact"), load("tiny:quick")
    assert_has_weights(exact, tags)
    assert_has_weights(quick, tags)
    assert (
        exact.mean == (0.1, 0.2, 0.3) and exact.std == (0.4, 0.5, 0.6) and exact.interpolation == "bilinear"
    )
    assert quick.mean == open_clip.OPENAI_DATASET_MEAN and quick.interpolation == "bicubic"
    assert has_quick_gelu(quick) and not has_quick_gelu(exact)
    assert not torch.allclose(exact.encode_image(IMAGE), quick.encode_image(IMAGE), atol=1e-5)
    # Without weights the activation is that of the tag too, so the weights of a run can be loaded afterwards.
    assert has_quick_gelu(load("tiny:far", pretrained=False))


def test_openai_tags_use_quick_gelu() -> None:
    for name in ("ViT-B-16", "ViT-B-32", "RN50"):
        assert open_clip.get_pretrained_cfg(name, "openai")["quick_gelu"]
    assert has_quick_gelu(load("RN50:openai", pretrained=False))


def test_unreachable_hub_is_reported_with_an_offline_way(
    tags: State, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def no_network(*args: Any, **kwargs: Any) -> None:
        raise socket.gaierror("Name or service not known")

    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(UserError) as error:
        load("tiny:far", cache_dir=str(tmp_path))
    for part in (
        "--backbone tiny:far",
        "Without network",
        "nobody/nothing",
        "--backbone tiny-quickgelu:FILE",
    ):
        assert part in str(error.value)
    with pytest.raises(UserError, match=r"hf-hub:nobody/nothing: not in the cache.*local-dir:FOLDER"):
        load("hf-hub:nobody/nothing", cache_dir=str(tmp_path))
    assert not huggingface_hub.constants.HF_HUB_OFFLINE
    # Without weights, nothing needs the network.
    assert load("tiny:far", pretrained=False).kind == "vit"


# Folders and hub repositories


def folder_of(state: State, folder: Path) -> Path:
    """Write a model folder with QuickGELU and preprocessing of its own."""
    folder.mkdir()
    save_file(state, folder / "open_clip_model.safetensors")
    preprocess = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "bicubic"}
    config = {"model_cfg": {**ARCHITECTURE, "quick_gelu": True}, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


def test_folder_and_hub_repository_load_the_same_model(
    tiny_architecture: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = random_state()
    folder = folder_of(state, tmp_path / "repository")
    local = load(f"local-dir:{folder}")
    assert_has_weights(local, state)
    assert has_quick_gelu(local) and tuple(local.mean) == (0.1, 0.2, 0.3)

    def download(repository: str, filename: str | None = None, **kwargs: Any) -> str:
        assert repository == "someone/tiny"
        return str(folder / (filename or "open_clip_model.safetensors"))

    monkeypatch.setattr(loading, "download_pretrained_from_hf", download)
    monkeypatch.setattr(open_clip.factory, "download_pretrained_from_hf", download)
    hub = load("hf-hub:someone/tiny")
    assert_has_weights(hub, state)
    assert hub.spec == "hf-hub:someone/tiny"
    torch.testing.assert_close(hub.encode_image(IMAGE), local.encode_image(IMAGE))
    torch.testing.assert_close(hub.encode_text(TEXTS), local.encode_text(TEXTS))

    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(UserError, match="no weights there"):
        load(f"local-dir:{folder}")
    (folder / "open_clip_config.json").write_text("{")
    with pytest.raises(UserError, match=r"open_clip_config\.json is not valid JSON"):
        load(f"local-dir:{folder}", pretrained=False)


# Names


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("pockets", "unknown architecture.*did you mean pocket"),
        ("", "unknown architecture"),
        ("ViT-B-17:openai", "did you mean ViT-B-16"),
        ("tiny", "no weights given.*tiny:random for random weights"),
        ("ViT-B-16", "no weights given.*ViT-B-16:openai"),
        ("tiny:nowhere.pt", '"nowhere.pt" is neither a file nor a tag'),
        ("ViT-B-16:opnai", "neither a file nor a tag.*ViT-B-16:openai"),
        (
            "openai/clip-vit-base-patch32",
            "for a repository of transformers write hf:openai/clip-vit-base-patch32",
        ),
        ("local-dir:/nowhere", "no weights there"),
    ],
)
def test_invalid_spec_is_refused(tiny_architecture: None, spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(spec)


def test_list_backbones_has_every_pretrained_pair_of_open_clip() -> None:
    names = list_backbones()
    assert names[0] == "pocket" and {"ViT-B-16:openai", "RN50:openai", "ViT-B-16-SigLIP:webli"} <= set(names)
    assert len(names) == 1 + len(open_clip.list_pretrained())


@pytest.mark.parametrize("spec", ["ViT-B-16-SigLIP:webli", "roberta-ViT-B-32:laion2b_s12b_b32k"])
def test_text_files_that_cannot_be_downloaded_are_reported_with_an_offline_way(
    spec: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(open_clip.factory, "CustomTextCLIP", lambda **kwargs: build_clip(custom_text=True))
    monkeypatch.setattr(open_clip, "get_tokenizer", unreachable)
    with pytest.raises(UserError, match=r"clipalign\[hf\].*Without network, copy .*local-dir:FOLDER"):
        load(spec, cache_dir=str(tmp_path), pretrained=False)


def unreachable(*args: Any, **kwargs: Any) -> None:
    raise OSError("we couldn't connect to the hub")


def test_load_suppresses_open_clips_messages_and_restores_logging(capfd: pytest.CaptureFixture[str]) -> None:
    handlers, disabled = list(logging.getLogger().handlers), logging.root.manager.disable
    load("pocket:random")
    assert list(logging.getLogger().handlers) == handlers and logging.root.manager.disable == disabled
    assert "No pretrained weights" not in "".join(capfd.readouterr())


def test_image_size_interpolates_the_positional_embedding(tiny_spec: str) -> None:
    own, larger = load(tiny_spec), load(f"{tiny_spec}@48")
    assert larger.image_size == (48, 48) and larger.grid == tuple(side * 48 // 32 for side in own.grid)
    cells, larger_cells = (b.model.visual.positional_embedding[1:] for b in (own, larger))
    assert len(larger_cells) == larger.grid[0] * larger.grid[1]
    assert torch.equal(
        own.model.visual.positional_embedding[0], larger.model.visual.positional_embedding[0]
    )  # the class token's
    as_image = cells.T.reshape(1, -1, *own.grid)
    expected = torch.nn.functional.interpolate(as_image, larger.grid, mode="bicubic", antialias=True)
    torch.testing.assert_close(larger_cells, expected[0].flatten(1).T)
    assert larger.encode_image(torch.zeros(1, 3, 48, 48)).shape == (1, own.embed_dim)


def test_pocket_takes_larger_images() -> None:
    backbone = load("pocket@96")
    assert backbone.grid == (12, 12) and backbone.spec == "pocket@96"
    assert bool(backbone.encode_image(torch.rand(1, 3, 96, 96)).isfinite().all())


def test_image_size_of_resnet_cannot_change(resnet_spec: str) -> None:
    with pytest.raises(UserError, match="@64"):
        load(f"{resnet_spec}@64")
