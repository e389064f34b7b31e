"""Weights files of a tiny architecture, in the formats that users have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from clipalign.backbone import load

# As a model_cfg of open_clip. OpenAI's state dicts imply a head width of 64.
ARCHITECTURE = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "layers": 2, "width": 64, "head_width": 64},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
}

State = dict[str, Tensor]


def random_state(name: str = "tiny", seed: int = 5) -> State:
    """Return random weights that differ from those of the default seed."""
    return {k: v.clone() for k, v in load(f"{name}:random", seed=seed).model.state_dict().items()}


def assert_has_weights(backbone: Any, expected: State) -> None:
    """Assert that the backbone has exactly these weights, in float32."""
    actual = backbone.model.state_dict()
    assert actual.keys() == expected.keys()
    for name in actual:
        assert actual[name].dtype == torch.float32
        torch.testing.assert_close(actual[name], expected[name].float(), atol=0, rtol=0)


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
