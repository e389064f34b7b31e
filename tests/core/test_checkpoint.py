from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from clipalign.core.checkpoint import (
    load_state,
    load_weights,
    replacing,
    save_state,
    save_weights,
    write_text,
)
from clipalign.core.errors import UserError


def test_state_round_trip_is_exact(tmp_path: Path) -> None:
    state = {
        "step": 7,
        "loss": 0.1 + 0.2,
        "none": None,
        "groups": [{"params": [0, 1], "betas": (0.9, 0.999)}],
        "state": {0: {"exp_avg": torch.randn(3, 4), "step": torch.tensor(7.0)}, 1: {}},
        "bytes": torch.get_rng_state(),
    }
    save_state(tmp_path / "state.safetensors", state)
    back = load_state(tmp_path / "state.safetensors")
    assert torch.equal(back["state"][0]["exp_avg"], state["state"][0]["exp_avg"])
    assert torch.equal(back["bytes"], state["bytes"])
    for key in ("step", "loss", "none", "groups"):
        assert back[key] == state[key]
    assert back["state"][0]["step"].shape == ()
    assert list(back["state"]) == [0, 1]


def test_restored_optimiser_continues_bit_for_bit(tmp_path: Path) -> None:
    def step(parameter: torch.nn.Parameter, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        (parameter**3).sum().backward()
        optimizer.step()

    a = torch.nn.Parameter(torch.randn(5))
    first = torch.optim.AdamW([a], lr=0.1)
    step(a, first)
    save_state(tmp_path / "s", {"a": a, "optimizer": first.state_dict()})
    step(a, first)

    stored = load_state(tmp_path / "s")
    b = torch.nn.Parameter(stored["a"])
    second = torch.optim.AdamW([b], lr=0.3)
    second.load_state_dict(stored["optimizer"])
    step(b, second)
    assert torch.equal(a, b)


def test_weights_are_stored_as_float16_only_if_exact(tmp_path: Path) -> None:
    tensors = {
        "half": torch.randn(4).half().float(),
        "full": torch.tensor([1.0, 1 + 2**-20]),
        "huge": torch.tensor([1e30]),
        "count": torch.tensor(3),
    }
    save_weights(tmp_path / "w.safetensors", tensors)
    raw = load_file(tmp_path / "w.safetensors")
    assert raw["half"].dtype == torch.float16
    assert raw["full"].dtype == raw["huge"].dtype == torch.float32
    back = load_weights(tmp_path / "w.safetensors")
    for name, tensor in tensors.items():
        assert torch.equal(back[name], tensor) and back[name].dtype == tensor.dtype


def test_failed_write_keeps_the_old_file_and_no_other(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "old")
    with pytest.raises(RuntimeError), replacing(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert (tmp_path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("keep", [0, 4, 40, 200])
def test_truncated_file_raises_with_its_name(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, {"a": torch.randn(100)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"w\.safetensors is damaged"):
        load_weights(path)
    with pytest.raises(UserError, match=r"w\.safetensors is damaged"):
        load_state(path)


def test_weights_file_is_not_a_checkpoint(tmp_path: Path) -> None:
    save_weights(tmp_path / "w", {"a": torch.zeros(1)})
    with pytest.raises(UserError, match="not a checkpoint"):
        load_state(tmp_path / "w")
