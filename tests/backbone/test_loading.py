"""Names to backbones, through the real loading code, with random weights in the real file formats."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import open_clip
import pytest
import torch
from open_clip import pretrained as open_clip_pretrained
from open_clip.transformer import QuickGELU
from safetensors.torch import save_file
from torch import Tensor, nn

from clipalign.backbone import list_backbones, load, loading, pocket
from clipalign.backbone.checkpoints import load_weights, read_state_dict
from clipalign.core.errors import UserError

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "layers": 2, "width": 64, "head_width": 64},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
}
IMAGE = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
TEXTS = ["a cat", "a red apple"]

State = dict[str, Tensor]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Architectures "tiny" and "tiny-quickgelu" in open_clip's registry, gone after the test."""
    pocket.register()  # rescans the registry, so before what follows
    configs = open_clip.factory._MODEL_CONFIGS
    monkeypatch.setitem(configs, "tiny", TINY)
    monkeypatch.setitem(configs, "tiny-quickgelu", {**TINY, "quick_gelu": True})


def random_state(name: str = "tiny", seed: int = 5) -> State:
    """Weights of an architecture, unlike those of any default seed."""
    return {k: v.clone() for k, v in load(f"{name}:random", seed=seed).model.state_dict().items()}


def assert_holds(backbone: Any, state: State) -> None:
    held = backbone.model.state_dict()
    assert held.keys() == state.keys()
    for name in held:
        assert held[name].dtype == torch.float32
        torch.testing.assert_close(held[name], state[name].float(), atol=0, rtol=0)


# The pocket backbone


def test_pocket_is_an_open_clip_architecture() -> None:
    load("pocket:random")
    model = open_clip.create_model("clipalign-pocket")
    block = model.visual.transformer.resblocks[0]
    assert (model.visual.image_size, model.visual.grid_size, len(model.visual.transformer.resblocks)) == (
        (64, 64),
        (8, 8),
        6,
    )
    assert block.attn.num_heads == 4 and block.attn.embed_dim == 128 and block.mlp.c_fc.out_features == 512
    assert len(model.transformer.resblocks) == 4 and model.transformer.resblocks[0].attn.num_heads == 4
    assert model.positional_embedding.shape == (77, 128) and model.token_embedding.weight.shape == (
        49408,
        128,
    )
    assert model.text_projection.shape == (128, 128)
    assert type(block.mlp.gelu) is nn.GELU and block.mlp.gelu.approximate == "none"


def test_pocket_without_weights_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pocket, "WEIGHTS", tmp_path / "model.safetensors")
    with pytest.raises(
        UserError, match=r"weights file of the pocket backbone is missing: .*model\.safetensors"
    ):
        load("pocket")
    assert load("pocket", pretrained=False).spec == "pocket"


def test_pocket_weights_are_float16_on_disk_and_float32_in_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    state = {k: v.half() for k, v in load("pocket:random", seed=5).model.state_dict().items()}
    monkeypatch.setattr(pocket, "WEIGHTS", tmp_path / "model.safetensors")
    save_file(state, pocket.WEIGHTS)
    backbone = load("pocket")
    assert_holds(backbone, state)
    assert not backbone.training and backbone.image_size == (64, 64) and backbone.embed_dim == 128
    assert backbone.mean == open_clip.OPENAI_DATASET_MEAN and backbone.std == open_clip.OPENAI_DATASET_STD
    assert_holds(load(f"pocket:{pocket.WEIGHTS}"), state)


def test_random_weights_are_seeded_and_leave_the_global_state_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, again, other = (
        load("pocket:random"),
        load("pocket", pretrained=False),
        load("pocket:random", seed=1),
    )
    assert torch.equal(torch.rand(3), expected)
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(first.encode_image(images), again.encode_image(images))
    assert not torch.allclose(first.encode_image(images), other.encode_image(images))


# Files


def as_safetensors(state: State, path: Path) -> Path:
    save_file(state, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def as_state_dict(state: State, path: Path) -> Path:
    torch.save(state, path.with_suffix(".pt"))
    return path.with_suffix(".pt")


def as_training_checkpoint(state: State, path: Path) -> Path:
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(2))])
    module = {f"module.{name}": value for name, value in state.items()}
    torch.save(
        {"epoch": 3, "name": "run", "state_dict": module, "optimizer": optimizer.state_dict()},
        path.with_suffix(".pt"),
    )
    return path.with_suffix(".pt")


def as_compiled_checkpoint(state: State, path: Path) -> Path:
    module = {f"_orig_mod.module.{name}": value for name, value in state.items()}
    torch.save({"state_dict": module}, path.with_suffix(".bin"))
    return path.with_suffix(".bin")


def as_half(state: State, path: Path) -> Path:
    return as_safetensors({name: value.half() for name, value in state.items()}, path)


def as_vector_scale(state: State, path: Path) -> Path:
    return as_safetensors({**state, "logit_scale": state["logit_scale"].reshape(1)}, path)


@pytest.mark.parametrize(
    "save",
    [as_safetensors, as_state_dict, as_training_checkpoint, as_compiled_checkpoint, as_half, as_vector_scale],
)
def test_file_formats(tiny: None, tmp_path: Path, save: Callable[[State, Path], Path]) -> None:
    state = random_state()
    backbone = load(f"tiny:{save(state, tmp_path / 'weights')}")
    assert_holds(backbone, {k: v.half() for k, v in state.items()} if save is as_half else state)


def test_a_checkpoint_of_open_clips_own_model_gives_its_features(tiny: None, tmp_path: Path) -> None:
    model = open_clip.create_model("tiny").eval()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "epoch_1.pt")
    backbone = load(f"tiny:{tmp_path / 'epoch_1.pt'}")
    torch.testing.assert_close(backbone.encode_image(IMAGE), model.encode_image(IMAGE))
    tokens = open_clip.get_tokenizer("tiny")(TEXTS)
    torch.testing.assert_close(backbone.encode_text(TEXTS), model.encode_text(tokens))


def test_openai_state_dict(tiny: None, tmp_path: Path) -> None:
    # OpenAI's files: half-precision weights, three scalars beside them; open_clip's own reader is the judge.
    state = {name: value.half() for name, value in random_state().items()}
    scalars = {"input_resolution": 32, "context_length": 12, "vocab_size": 49408}
    file = tmp_path / "openai.pt"
    torch.save({**state, **{name: torch.tensor(value) for name, value in scalars.items()}}, file)
    backbone = load(f"tiny-quickgelu:{file}")
    assert_holds(backbone, state)
    known = open_clip.load_openai_model(str(file), precision="fp32", device="cpu")
    torch.testing.assert_close(backbone.encode_image(IMAGE), known.encode_image(IMAGE))
    known_text = known.encode_text(backbone.tokenizer(TEXTS))
    torch.testing.assert_close(backbone.encode_text(TEXTS), known_text)
    with pytest.raises(
        UserError, match=r"openai\.pt is OpenAI's, trained with QuickGELU: name the -quickgelu"
    ):
        load(f"tiny:{file}")


def test_weights_of_the_joined_layout_fit_a_separate_text_tower(tiny: None, tmp_path: Path) -> None:
    state = random_state()
    file = as_safetensors(state, tmp_path / "joined")
    model = open_clip.create_model("tiny", force_custom_text=True)
    load_weights(model, file)
    torch.testing.assert_close(model.text.token_embedding.weight, state["token_embedding.weight"])


def test_exact_gelu_is_pointed_out_where_it_may_be_wrong(
    tiny: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = as_safetensors(random_state(), tmp_path / "weights")
    load(f"tiny:{file}")
    assert "name tiny-quickgelu instead" in caplog.text
    caplog.clear()
    load(f"tiny-quickgelu:{file}")
    assert not caplog.text


def truncated(tmp_path: Path, save: Callable[[State, Path], Path]) -> Path:
    file = save(random_state(), tmp_path / "cut")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return file


@pytest.mark.parametrize("save", [as_safetensors, as_state_dict, as_training_checkpoint])
def test_truncated_files_are_named(tiny: None, tmp_path: Path, save: Callable[[State, Path], Path]) -> None:
    file = truncated(tmp_path, save)
    with pytest.raises(UserError, match=f"cannot read weights from .*{file.name}: truncated"):
        load(f"tiny:{file}")


def test_files_that_are_no_weights(tiny: None, tmp_path: Path) -> None:
    for name, content in [("a.safetensors", b"hello"), ("b.pt", b""), ("c.pt", b"not a zip at all")]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"cannot read weights from .*{name}"):
            load(f"tiny:{tmp_path / name}")
    (tmp_path / "d.onnx").touch()
    with pytest.raises(UserError, match=r"d\.onnx: give a \.safetensors"):
        load(f"tiny:{tmp_path / 'd.onnx'}")
    torch.save([1, 2], tmp_path / "e.pt")
    with pytest.raises(UserError, match=r"e\.pt holds no state dict"):
        load(f"tiny:{tmp_path / 'e.pt'}")
    torch.save({"state_dict": {"epoch": 3}}, tmp_path / "f.pt")
    with pytest.raises(UserError, match=r"f\.pt holds no state dict"):
        load(f"tiny:{tmp_path / 'f.pt'}")


class Payload:
    """Would write a file if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_python_objects_in_a_file_are_never_run(tiny: None, tmp_path: Path) -> None:
    torch.save({**random_state(), "x": Payload(tmp_path / "ran")}, tmp_path / "bad.pt")
    with pytest.raises(UserError, match=r"bad\.pt: it holds Python objects"):
        load(f"tiny:{tmp_path / 'bad.pt'}")
    assert not (tmp_path / "ran").exists()


def test_torchscript_archives_are_explained(tiny: None, tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(tmp_path / "jit.pt"))
    with pytest.raises(UserError, match=r"jit\.pt: it is a TorchScript archive"):
        load(f"tiny:{tmp_path / 'jit.pt'}")


def test_weights_of_another_architecture_are_explained(tiny: None, tmp_path: Path) -> None:
    state = random_state()
    del state["visual.proj"]
    state["extra"] = torch.zeros(1)
    state["ln_final.weight"] = torch.zeros(3)
    file = as_safetensors(state, tmp_path / "odd")
    with pytest.raises(UserError) as error:
        load(f"tiny:{file}")
    for part in (
        "odd.safetensors",
        "missing visual.proj",
        "unknown extra",
        "ln_final.weight is [3], not [64]",
    ):
        assert part in str(error.value)
    with pytest.raises(UserError, match=r"does not fit this architecture.* and [0-9]+ more"):
        load(f"pocket:{as_safetensors(random_state(), tmp_path / 'whole')}")


def test_positions_are_not_resized_silently(tiny: None, tmp_path: Path) -> None:
    state = random_state()
    state["visual.positional_embedding"] = torch.zeros(10, 64)
    with pytest.raises(UserError, match=r"visual.positional_embedding is \[10, 64\], not \[17, 64\]"):
        load(f"tiny:{as_safetensors(state, tmp_path / 'grid')}")


def test_values_that_are_not_finite_are_refused(tiny: None, tmp_path: Path) -> None:
    state = random_state()
    state["visual.proj"][0, 0] = torch.nan
    with pytest.raises(UserError, match=r"not finite: visual\.proj"):
        load(f"tiny:{as_safetensors(state, tmp_path / 'nan')}")


def test_reading_alone_gives_plain_names(tmp_path: Path) -> None:
    torch.save({"state_dict": {"module.a": torch.ones(1), "module.b": torch.zeros(1)}}, tmp_path / "x.pt")
    assert sorted(read_state_dict(tmp_path / "x.pt")) == ["a", "b"]
    with pytest.raises(UserError, match="no such weights file"):
        read_state_dict(tmp_path / "y.pt")


# Tags


@pytest.fixture
def tags(tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> State:
    """Tags of "tiny": exact and quick on disk, far at the hub."""
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


def test_tags_bring_weights_statistics_and_activation(tags: State) -> None:
    exact, quick = load("tiny:exact"), load("tiny:quick")
    assert_holds(exact, tags)
    assert_holds(quick, tags)
    assert (
        exact.mean == (0.1, 0.2, 0.3) and exact.std == (0.4, 0.5, 0.6) and exact.interpolation == "bilinear"
    )
    assert quick.mean == open_clip.OPENAI_DATASET_MEAN and quick.interpolation == "bicubic"
    assert has_quick_gelu(quick) and not has_quick_gelu(exact)
    assert not torch.allclose(exact.encode_image(IMAGE), quick.encode_image(IMAGE), atol=1e-5)
    # The architecture alone has the tag's activation too, so that a run's weights can be put into it.
    assert has_quick_gelu(load("tiny:far", pretrained=False))


def test_openais_tags_need_quick_gelu_in_open_clips_own_list() -> None:
    for name in ("ViT-B-16", "ViT-B-32", "RN50"):
        assert open_clip.get_pretrained_cfg(name, "openai")["quick_gelu"]
    assert has_quick_gelu(load("RN50:openai", pretrained=False))


def test_unreachable_hub(tags: State, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
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
    # Nothing needs the network when no weights are asked for.
    assert load("tiny:far", pretrained=False).kind == "vit"


# Folders and hub repositories


def folder_of(state: State, folder: Path) -> Path:
    folder.mkdir()
    save_file(state, folder / "open_clip_model.safetensors")
    preprocess = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "bicubic"}
    config = {"model_cfg": {**TINY, "quick_gelu": True}, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


def test_folder_and_hub_repository(tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = random_state()
    folder = folder_of(state, tmp_path / "repository")
    local = load(f"local-dir:{folder}")
    assert_holds(local, state)
    assert has_quick_gelu(local) and tuple(local.mean) == (0.1, 0.2, 0.3)

    def download(repository: str, filename: str | None = None, **kwargs: Any) -> str:
        assert repository == "someone/tiny"
        return str(folder / (filename or "open_clip_model.safetensors"))

    monkeypatch.setattr(loading, "download_pretrained_from_hf", download)
    monkeypatch.setattr(open_clip.factory, "download_pretrained_from_hf", download)
    hub = load("hf-hub:someone/tiny")
    assert_holds(hub, state)
    assert hub.spec == "hf-hub:someone/tiny"
    torch.testing.assert_close(hub.encode_image(IMAGE), local.encode_image(IMAGE))
    torch.testing.assert_close(hub.encode_text(TEXTS), local.encode_text(TEXTS))

    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(UserError, match="no weights there"):
        load(f"local-dir:{folder}")
    (folder / "open_clip_config.json").write_text("{")
    with pytest.raises(UserError, match="cannot read an open_clip configuration"):
        load(f"local-dir:{folder}", pretrained=False)


# Names


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("pockets", "unknown architecture.*did you mean pocket"),
        ("", "unknown architecture"),
        ("ViT-B-17:openai", "did you mean ViT-B-16"),
        ("tiny", "say which weights.*tiny:random for random weights"),
        ("ViT-B-16", "say which weights.*ViT-B-16:openai"),
        ("tiny:nowhere.pt", '"nowhere.pt" is neither a file nor a tag'),
        ("ViT-B-16:opnai", "neither a file nor a tag.*ViT-B-16:openai"),
        ("ViT-B-16-SigLIP:webli", "vision tower is timm's .*not support"),
        ("coca_ViT-B-32:laion2b_s13b_b90k", "learned queries.*not support"),
        ("ViT-L-14-CLIPA:datacomp1b", "class token.*not support"),
        ("local-dir:/nowhere", "no weights there"),
    ],
)
def test_names_that_cannot_be_loaded(tiny: None, spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(spec)


def test_listed_names_are_those_that_can_be_loaded() -> None:
    names = list_backbones()
    assert names[0] == "pocket" and {"ViT-B-16:openai", "RN50:openai", "ViT-B-32:laion2b_s34b_b79k"} <= set(
        names
    )
    assert not any("SigLIP" in name or "coca" in name or "CLIPA" in name for name in names)


def test_open_clips_messages_stay_out_of_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    import logging

    handlers, disabled = list(logging.getLogger().handlers), logging.root.manager.disable
    load("pocket:random")
    assert list(logging.getLogger().handlers) == handlers and logging.root.manager.disable == disabled
    assert "No pretrained weights" not in "".join(capfd.readouterr())


def test_images_of_another_size_interpolate_the_grid(tiny_spec: str) -> None:
    own, larger = load(tiny_spec), load(f"{tiny_spec}@48")
    assert larger.image_size == (48, 48) and larger.grid == tuple(side * 48 // 32 for side in own.grid)
    cells, wider = (b.model.visual.positional_embedding[1:] for b in (own, larger))
    assert len(wider) == larger.grid[0] * larger.grid[1]
    assert torch.equal(
        own.model.visual.positional_embedding[0], larger.model.visual.positional_embedding[0]
    )  # of the class token
    as_picture = cells.T.reshape(1, -1, *own.grid)
    literal = torch.nn.functional.interpolate(as_picture, larger.grid, mode="bicubic", antialias=True)
    torch.testing.assert_close(wider, literal[0].flatten(1).T)
    assert larger.encode_image(torch.zeros(1, 3, 48, 48)).shape == (1, own.embed_dim)


def test_the_pocket_model_takes_larger_images() -> None:
    backbone = load("pocket@96")
    assert backbone.grid == (12, 12) and backbone.spec == "pocket@96"
    assert bool(backbone.encode_image(torch.rand(1, 3, 96, 96)).isfinite().all())


def test_only_grids_of_vits_are_interpolated(resnet_spec: str) -> None:
    with pytest.raises(UserError, match="@64"):
        load(f"{resnet_spec}@64")
