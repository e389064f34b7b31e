"""Arithmetic on state dicts."""

from __future__ import annotations

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
