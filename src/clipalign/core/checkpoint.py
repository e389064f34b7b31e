"""State on disk: written whole or not at all, and read without running any code that is in it.

Tensors are safetensors; everything else is JSON in the same file's header, so that one rename replaces both.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .errors import UserError

STATE = "state"  # header key of the JSON part


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path that takes the place of `path` when the block ends without an error.

    The bytes are on the disk before the name changes, so a crash leaves the old file or the new one.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())  # the safetensors writer makes files for their owner alone
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        with contextlib.suppress(OSError):  # some file systems do not let folders be synced
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace a text file at once."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def save_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors, those that float16 holds exactly as float16.

    Shipped and published weights are float16 to begin with, so towers that are not trained take half the
    space and lose nothing.

    Args:
        path: the file.
        tensors: any shapes; shared storage is written once per name.
    """
    stored = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous().clone()
        half = tensor.half() if tensor.dtype == torch.float32 else tensor
        stored[name] = half if torch.equal(half.float(), tensor.float()) else tensor
    with replacing(path) as temporary:
        # One header entry and no more: several come in random order, and equal weights shall be equal bytes.
        save_file(stored, temporary, metadata={"format": "pt"})


def load_weights(path: Path, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Read what `save_weights` wrote; floats come back as float32.

    Raises:
        UserError: no such file, or a damaged one.
    """
    with _open(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    return {name: (t.float() if t.is_floating_point() else t).to(device) for name, t in tensors.items()}


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write nested dicts and lists of tensors, numbers, strings and None."""
    tensors: dict[str, Tensor] = {}
    skeleton = _map(state, lambda tensor: _put(tensors, tensor))
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={STATE: json.dumps(skeleton)})


def load_state(path: Path) -> dict[str, Any]:
    """Read what `save_state` wrote, with tensors on the CPU.

    Raises:
        UserError: no such file, or a damaged one.
    """
    with _open(path) as file:
        skeleton = json.loads((file.metadata() or {}).get(STATE, "null"))
        if skeleton is None:
            raise UserError(f"{path} is not a checkpoint")
        state: dict[str, Any] = _unmap(skeleton, file.get_tensor)
    return state


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise UserError(f"no weights file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"{path} is damaged or not a safetensors file ({' '.join(str(error).split())}); "
            "fetch or train it again"
        ) from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _put(tensors: dict[str, Tensor], tensor: Tensor) -> dict[str, str]:
    name = str(len(tensors))
    tensors[name] = tensor.detach().cpu().contiguous().clone()
    return {"tensor": name}


# JSON knows neither tuples nor keys that are not strings (an optimiser's are numbers), so both are spelt out.
def _map(value: Any, put: Callable[[Tensor], Any]) -> Any:
    if isinstance(value, Tensor):
        return put(value)
    if isinstance(value, Mapping):
        return {"dict": [[key, _map(item, put)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_map(item, put) for item in value]}
    return [_map(item, put) for item in value] if isinstance(value, list) else value


def _unmap(value: Any, get: Callable[[str], Tensor]) -> Any:
    if isinstance(value, list):
        return [_unmap(item, get) for item in value]
    if isinstance(value, dict):
        kind, content = next(iter(value.items()))
        if kind == "tensor":
            return get(content)
        if kind == "tuple":
            return tuple(_unmap(item, get) for item in content)
        return {key: _unmap(item, get) for key, item in content}
    return value
