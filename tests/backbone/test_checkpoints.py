"""Weights files: formats that are read, and files that are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import nn

from clipalign.backbone import load
from clipalign.backbone.checkpoints import load_weights, read_state_dict
from clipalign.core.errors import UserError
from tests.helpers.weights import (
    State,
    as_compiled_checkpoint,
    as_half,
    as_safetensors,
    as_state_dict,
    as_training_checkpoint,
    as_vector_scale,
    assert_has_weights,
    random_state,
)

IMAGE = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
TEXTS = ["a cat", "a red apple"]


@pytest.mark.parametrize(
    "save",
    [as_safetensors, as_state_dict, as_training_checkpoint, as_compiled_checkpoint, as_half, as_vector_scale],
)
def test_weights_are_read_from_each_file_format(
    tiny_architecture: None, tmp_path: Path, save: Callable[[State, Path], Path]
) -> None:
    state = random_state()
    backbone = load(f"tiny:{save(state, tmp_path / 'weights')}")
    assert_has_weights(backbone, {k: v.half() for k, v in state.items()} if save is as_half else state)


def test_open_clip_checkpoint_gives_open_clips_features(tiny_architecture: None, tmp_path: Path) -> None:
    model = open_clip.create_model("tiny").eval()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "epoch_1.pt")
    backbone = load(f"tiny:{tmp_path / 'epoch_1.pt'}")
    torch.testing.assert_close(backbone.encode_image(IMAGE), model.encode_image(IMAGE))
    tokens = open_clip.get_tokenizer("tiny")(TEXTS)
    torch.testing.assert_close(backbone.encode_text(TEXTS), model.encode_text(tokens))


def test_openai_state_dict_matches_open_clips_reader(tiny_architecture: None, tmp_path: Path) -> None:
    # OpenAI's files contain half-precision weights and three scalars beside them.
    state = {name: value.half() for name, value in random_state().items()}
    scalars = {"input_resolution": 32, "context_length": 12, "vocab_size": 49408}
    file = tmp_path / "openai.pt"
    torch.save({**state, **{name: torch.tensor(value) for name, value in scalars.items()}}, file)
    backbone = load(f"tiny-quickgelu:{file}")
    assert_has_weights(backbone, state)
    reference = open_clip.load_openai_model(str(file), precision="fp32", device="cpu")
    torch.testing.assert_close(backbone.encode_image(IMAGE), reference.encode_image(IMAGE))
    expected_text = reference.encode_text(backbone.tokenizer(TEXTS))
    torch.testing.assert_close(backbone.encode_text(TEXTS), expected_text)
    with pytest.raises(
        UserError, match=r"openai\.pt is OpenAI's, trained with QuickGELU: use the -quickgelu"
    ):
        load(f"tiny:{file}")


def test_weights_of_clip_layout_load_into_custom_text_clip(tiny_architecture: None, tmp_path: Path) -> None:
    state = random_state()
    file = as_safetensors(state, tmp_path / "joined")
    model = open_clip.create_model("tiny", force_custom_text=True)
    load_weights(model, file)
    torch.testing.assert_close(model.text.token_embedding.weight, state["token_embedding.weight"])


def test_file_for_exact_gelu_warns_if_a_quickgelu_variant_exists(
    tiny_architecture: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = as_safetensors(random_state(), tmp_path / "weights")
    load(f"tiny:{file}")
    assert "use tiny-quickgelu instead" in caplog.text
    caplog.clear()
    load(f"tiny-quickgelu:{file}")
    assert not caplog.text


def truncated(tmp_path: Path, save: Callable[[State, Path], Path]) -> Path:
    file = save(random_state(), tmp_path / "cut")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return file


@pytest.mark.parametrize("save", [as_safetensors, as_state_dict, as_training_checkpoint])
def test_truncated_file_is_refused(
    tiny_architecture: None, tmp_path: Path, save: Callable[[State, Path], Path]
) -> None:
    file = truncated(tmp_path, save)
    with pytest.raises(UserError, match=f"cannot read weights from .*{file.name}: truncated"):
        load(f"tiny:{file}")


def test_files_that_are_not_weights_are_refused(tiny_architecture: None, tmp_path: Path) -> None:
    for name, content in [("a.safetensors", b"hello"), ("b.pt", b""), ("c.pt", b"not a zip at all")]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"cannot read weights from .*{name}"):
            load(f"tiny:{tmp_path / name}")
    (tmp_path / "d.onnx").touch()
    with pytest.raises(UserError, match=r"d\.onnx: expected a \.safetensors"):
        load(f"tiny:{tmp_path / 'd.onnx'}")
    torch.save([1, 2], tmp_path / "e.pt")
    with pytest.raises(UserError, match=r"e\.pt contains no state dict"):
        load(f"tiny:{tmp_path / 'e.pt'}")
    torch.save({"state_dict": {"epoch": 3}}, tmp_path / "f.pt")
    with pytest.raises(UserError, match=r"f\.pt contains no state dict"):
        load(f"tiny:{tmp_path / 'f.pt'}")


class Payload:
    """Object that creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_python_objects_in_a_file_are_refused_without_executing_them(
    tiny_architecture: None, tmp_path: Path
) -> None:
    torch.save({**random_state(), "x": Payload(tmp_path / "ran")}, tmp_path / "bad.pt")
    with pytest.raises(UserError, match=r"bad\.pt: it contains Python objects"):
        load(f"tiny:{tmp_path / 'bad.pt'}")
    assert not (tmp_path / "ran").exists()


def test_torchscript_archive_is_refused_with_a_way_to_convert_it(
    tiny_architecture: None, tmp_path: Path
) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(tmp_path / "jit.pt"))
    with pytest.raises(UserError, match=r"jit\.pt: it is a TorchScript archive"):
        load(f"tiny:{tmp_path / 'jit.pt'}")


def test_weights_of_another_architecture_are_refused_with_the_differences(
    tiny_architecture: None, tmp_path: Path
) -> None:
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


def test_positions_of_another_grid_are_refused_without_a_size(
    tiny_architecture: None, tmp_path: Path
) -> None:
    state = random_state()
    state["visual.positional_embedding"] = torch.zeros(10, 64)
    with pytest.raises(UserError, match=r"visual.positional_embedding is \[10, 64\], not \[17, 64\]"):
        load(f"tiny:{as_safetensors(state, tmp_path / 'grid')}")


def test_weights_that_are_not_finite_are_refused(tiny_architecture: None, tmp_path: Path) -> None:
    state = random_state()
    state["visual.proj"][0, 0] = torch.nan
    with pytest.raises(UserError, match=r"not finite: visual\.proj"):
        load(f"tiny:{as_safetensors(state, tmp_path / 'nan')}")


def test_read_state_dict_strips_prefixes(tmp_path: Path) -> None:
    torch.save({"state_dict": {"module.a": torch.ones(1), "module.b": torch.zeros(1)}}, tmp_path / "x.pt")
    assert sorted(read_state_dict(tmp_path / "x.pt")) == ["a", "b"]
    with pytest.raises(UserError, match="no such weights file"):
        read_state_dict(tmp_path / "y.pt")
