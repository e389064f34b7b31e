"""Arithmetic on state dicts, and their digest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from .errors import UserError


def interpolate(
    state_a: Mapping[str, Tensor], state_b: Mapping[str, Tensor], alpha: float
) -> dict[str, Tensor]:
    """Return (1 - alpha) * a + alpha * b for every floating-point tensor, computed in float32.

    The result has a's dtypes. Integer buffers, such as batch-norm counters, are copied from a. An alpha of 0 or 1
    returns one of the two states exactly.

    Source: Wortsman et al., WiSE-FT, CVPR 2022.

    Raises:
        UserError: the states differ in names or shapes.

    Example:
        >>> interpolate({"w": torch.zeros(2)}, {"w": torch.ones(2)}, 0.25)
        {'w': tensor([0.2500, 0.2500])}
    """
    different = sorted(state_a.keys() ^ state_b.keys()) or [
        name for name in state_a if state_a[name].shape != state_b[name].shape
    ]
    if different:
        raise UserError(f"cannot interpolate: the two models differ in {', '.join(different[:3])}")
    mixed = {}
    for name, a in state_a.items():
        if a.is_floating_point():
            b = state_b[name].to(a.device)
            mixed[name] = torch.lerp(a.float(), b.float(), alpha).to(a.dtype)
        else:
            mixed[name] = a.clone()
    return mixed


def state_digest(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of a state dict: of names, shapes, types and values, in the order of the names.

    >>> state_digest({"a": torch.zeros(2), "b": torch.ones(1)}) == state_digest(
    ...     {"b": torch.ones(1), "a": torch.zeros(2)}
    ... )
    True
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        # As bytes, since numpy has no bfloat16.
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
