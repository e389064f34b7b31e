"""Arithmetic on state dicts."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .errors import UserError


def interpolate(
    state_a: Mapping[str, Tensor], state_b: Mapping[str, Tensor], alpha: float
) -> dict[str, Tensor]:
    """WiSE-FT (Wortsman et al., CVPR 2022): (1 - alpha) * a + alpha * b for every floating-point entry.

    Computed in float32, kept in a's precision. Integer buffers (counters of batch norm) are a's. alpha 0 and
    1 give the two states exactly.

    Raises:
        UserError: the two hold other names or shapes.
    """
    odd = sorted(state_a.keys() ^ state_b.keys()) or [
        k for k in state_a if state_a[k].shape != state_b[k].shape
    ]
    if odd:
        raise UserError(f"cannot interpolate: the two models differ in {', '.join(odd[:3])}")
    mixed = {}
    for name, a in state_a.items():
        if a.is_floating_point():
            b = state_b[name].to(a.device)
            mixed[name] = torch.lerp(a.float(), b.float(), alpha).to(a.dtype)
        else:
            mixed[name] = a.clone()
    return mixed
