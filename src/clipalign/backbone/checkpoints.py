"""Weights files: reading them, and checking them against a model before they are copied into it."""

from __future__ import annotations

import argparse
import contextlib
import warnings
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from open_clip import CoCa
from open_clip.convert import convert_state_dict
from open_clip.model import CustomTextCLIP, convert_to_custom_text_state_dict, resize_pos_embed
from open_clip.transformer import QuickGELU
from safetensors.torch import load_file
from torch import Tensor, nn

from ..core.errors import UserError
from . import slip

TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".pth.tar")
# Scalars that OpenAI's state dicts contain beside the weights.
_OPENAI_KEYS = ("input_resolution", "context_length", "vocab_size")
_PREFIXES = ("module.", "_orig_mod.")
_NUMPY_SCALAR: Any = np.float64().__reduce__()[0]  # builds a number from its type and bytes
# Classes of values without behaviour, by the names that older versions of Python and NumPy gave them in pickles.
_SAFE_CLASSES: list[Any] = [
    argparse.Namespace,
    (PurePosixPath, "pathlib.PosixPath"),  # a path that cannot access files
    _NUMPY_SCALAR,
    (_NUMPY_SCALAR, "numpy.core.multiarray.scalar"),
    np.dtype,
    np.dtypes.Float64DType,
]


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the state dict in a weights file.

    The file is .safetensors, or .pt, .pth, .pth.tar, .bin, which are read with `weights_only=True`, so nothing in them
    is executed. It contains a state dict, or a training checkpoint with one under "state_dict" (open_clip, SLIP) or
    "model" (DeCLIP). Prefixes added by DDP and torch.compile are removed.

    Raises:
        UserError: the file is missing, truncated, not a weights file, or contains Python objects.
    """
    if not path.is_file():
        raise UserError(f"no such weights file: {path}")
    if path.suffix == ".safetensors":
        try:
            state: Any = load_file(path)
        except Exception as error:
            raise UserError(
                f"cannot read weights from {path}: truncated or not safetensors ({error})"
            ) from error
    elif path.name.endswith(TORCH_SUFFIXES):
        state = _read_torch(path)
    else:
        raise UserError(f"weights file {path}: expected a .safetensors, {', '.join(TORCH_SUFFIXES)} file")

    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"weights file {path} contains no state dict (names and tensors)")
    while prefix := next((p for p in _PREFIXES if all(name.startswith(p) for name in state)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def load_weights(model: nn.Module, path: Path, resize: bool = False) -> None:
    """Copy a weights file into a model, converted to the model's dtypes.

    Checkpoints of SLIP and DeCLIP are converted to open_clip's names; see `slip.to_open_clip`.

    Args:
        model: an open_clip model.
        path: the file; see `read_state_dict`.
        resize: interpolate the positional embedding of a ViT if the model has another grid.

    Raises:
        UserError: as `read_state_dict`; names or shapes that do not match the model; values that are not finite;
            OpenAI's weights for a model without QuickGELU.
    """
    load_state(model, slip.to_open_clip(read_state_dict(path)), path, resize)


def load_state(model: nn.Module, state: dict[str, Tensor], path: Path, resize: bool = False) -> None:
    """Copy tensors under open_clip's names into a model; arguments and errors as `load_weights`.

    Apple's original MobileCLIP checkpoints are converted by open_clip.
    """
    state = convert_state_dict(model, state)
    if any(name in state for name in _OPENAI_KEYS):
        if not any(isinstance(module, QuickGELU) for module in model.modules()):
            raise UserError(
                f"weights file {path} is OpenAI's, trained with QuickGELU: use the -quickgelu architecture"
            )
        state = {name: value for name, value in state.items() if name not in _OPENAI_KEYS}
    if isinstance(model, CustomTextCLIP | CoCa):
        state = convert_to_custom_text_state_dict(state)
    if resize:
        # Not every device can interpolate in half precision.
        state = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
        resize_pos_embed(state, model)
    expected = model.state_dict()
    if (
        "logit_bias" in expected and "logit_bias" not in state
    ):  # a model that was not trained with a sigmoid loss
        state["logit_bias"] = torch.zeros_like(expected["logit_bias"])
    for name in ("logit_scale", "logit_bias"):  # scalars in some files, [1] in others
        if name in state and name in expected and state[name].numel() == 1:
            state[name] = state[name].reshape(expected[name].shape)

    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    # A buffer that Hugging Face text towers had in older versions.
    unexpected = [name for name in unexpected if not name.endswith("embeddings.position_ids")]
    shapes = [
        f"{name} is {list(state[name].shape)}, not {list(expected[name].shape)}"
        for name in expected
        if name in state and state[name].shape != expected[name].shape
    ]
    problems = [
        f"{label} {_some(names)}"
        for label, names in (("missing", missing), ("unknown", unexpected), ("of another shape:", shapes))
        if names
    ]
    if problems:
        raise UserError(f"weights file {path} does not fit this architecture: {'; '.join(problems)}")
    broken = [
        name for name in expected if state[name].is_floating_point() and not state[name].isfinite().all()
    ]
    if broken:
        raise UserError(f"weights file {path} contains values that are not finite: {_some(broken)}")
    model.load_state_dict({name: state[name] for name in expected})


def _read_torch(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns about TorchScript archives, which are refused below
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            text = str(error)
            if "weights_only" in text:
                # SLIP's training script saved its arguments and NumPy's numbers beside the weights.
                with contextlib.suppress(Exception), torch.serialization.safe_globals(_SAFE_CLASSES):
                    return torch.load(path, map_location="cpu", weights_only=True)
            if "TorchScript" in text:
                reason = "it is a TorchScript archive; load it with torch.jit.load and save its state_dict()"
            elif "weights_only" in text or "Unsupported" in text:
                reason = "it contains Python objects, which are never executed; save only its state dict"
            else:
                first = text.splitlines()[0] if text else type(error).__name__
                reason = f"truncated or not a PyTorch file ({first})"
            raise UserError(f"cannot read weights from {path}: {reason}") from error


def _some(names: list[str]) -> str:
    """Return the first three names and the number of others."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
