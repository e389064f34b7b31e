"""Interpolation of state dicts."""

from __future__ import annotations

import pytest
import torch

from clipalign.core.errors import UserError
from clipalign.core.weights import interpolate


def test_interpolate_mixes_floats_and_copies_integers() -> None:
    a = {"w": torch.tensor([0.0, 1.0]), "h": torch.tensor([1.0], dtype=torch.float16), "n": torch.tensor(3)}
    b = {"w": torch.tensor([4.0, 3.0]), "h": torch.tensor([2.0], dtype=torch.float16), "n": torch.tensor(9)}
    mixed = interpolate(a, b, 0.25)
    assert mixed["w"].tolist() == [1.0, 1.5]
    assert mixed["h"].item() == 1.25 and mixed["h"].dtype == torch.float16
    assert mixed["n"].item() == 3
    assert torch.equal(interpolate(a, b, 0.0)["w"], a["w"]) and torch.equal(
        interpolate(a, b, 1.0)["w"], b["w"]
    )
    with pytest.raises(UserError, match="differ in n"):
        interpolate(a, {k: b[k] for k in ("w", "h")}, 0.5)
    with pytest.raises(UserError, match="differ in w"):
        interpolate(a, b | {"w": torch.zeros(3)}, 0.5)
