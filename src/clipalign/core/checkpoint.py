"""Files written atomically and read without executing code.

Tensors are stored as safetensors. Other state is JSON in the header of the same file, so one rename replaces both.
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
from .locks import process_exists

STATE = "state"  # header key of the JSON part
TEMPORARY = ".tmp"  # suffix of files that `replacing` has not renamed yet


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` if the block ends without an error.

    Data are synced to disk before the rename, so a crash leaves either the old file or the new one.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        yield temporary
        follow_umask(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        with contextlib.suppress(OSError):  # some file systems cannot sync folders
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)


def remove_abandoned(folder: Path) -> None:
    """Delete the temporary files of `replacing` in a folder whose processes were killed."""
    for path in folder.glob(f".*{TEMPORARY}"):
        pid = path.name.removesuffix(TEMPORARY).rpartition(".")[2]
        if pid.isdigit() and not process_exists(int(pid)):
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace a text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def save_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write named tensors, as float16 if that is exact.

    Published CLIP weights are float16, so frozen towers take half the space without loss.

    Args:
        path: file to write.
        tensors: name -> tensor; shared storage is written once per name.
    """
    stored = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous().clone()
        half = tensor.half() if tensor.dtype == torch.float32 else tensor
        stored[name] = half if torch.equal(half.float(), tensor.float()) else tensor
    with replacing(path) as temporary:
        # A single header entry: the order of several is random, and equal weights must give equal bytes.
        save_file(stored, temporary, metadata={"format": "pt"})


def load_weights(path: Path, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Read weights written by `save_weights`; floating-point tensors are returned as float32.

    Raises:
        UserError: the file is missing or damaged, or a tensor has values that are not numbers.
    """
    with _open(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    bad = [name for name, tensor in tensors.items() if bool(tensor.isnan().any())]
    if bad:
        raise UserError(
            f"{path}: {len(bad)} of {len(tensors)} tensors hold NaN (first: {bad[0]}); "
            "the run has diverged or the file is damaged: train it again"
        )
    return {name: (t.float() if t.is_floating_point() else t).to(device) for name, t in tensors.items()}


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write nested dicts and lists of tensors, numbers, strings and None."""
    tensors: dict[str, Tensor] = {}
    header = _encode(state, tensors)
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={STATE: json.dumps(header)})


def load_state(path: Path) -> dict[str, Any]:
    """Read state written by `save_state`, with tensors on the CPU.

    Raises:
        UserError: the file is missing or damaged.
    """
    with _open(path) as file:
        header = json.loads((file.metadata() or {}).get(STATE, "null"))
        if header is None:
            raise UserError(f"{path} is not a checkpoint")
        state: dict[str, Any] = _decode(header, file.get_tensor)
    return state


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:
    """Open a safetensors file; errors become a UserError."""
    if not path.is_file():
        raise UserError(f"no weights file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"{path} is damaged or not a safetensors file ({' '.join(str(error).split())}); "
            "download or train it again"
        ) from None


def follow_umask(path: Path) -> None:
    """Give a file the permissions of the umask; safetensors creates files readable by their owner only."""
    mask = os.umask(0)  # it can only be read by setting it
    os.umask(mask)
    os.chmod(path, 0o666 & ~mask)


# JSON has neither tuples nor non-string keys (those of optimiser states are integers); both are encoded explicitly.
def _encode(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return `value` as JSON, with its tensors moved to `tensors`."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"dict": [[key, _encode(item, tensors)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_encode(item, tensors) for item in value]}
    return [_encode(item, tensors) for item in value] if isinstance(value, list) else value


def _decode(value: Any, read: Callable[[str], Tensor]) -> Any:
    """Return the inverse of `_encode`; `read` maps a name to its tensor."""
    if isinstance(value, list):
        return [_decode(item, read) for item in value]
    if isinstance(value, dict):
        kind, content = next(iter(value.items()))
        if kind == "tensor":
            return read(content)
        if kind == "tuple":
            return tuple(_decode(item, read) for item in content)
        return {key: _decode(item, read) for key, item in content}
    return value
