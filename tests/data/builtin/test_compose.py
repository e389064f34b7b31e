"""Composition: pixels that published numbers were measured on stay what they are; caches mix nothing up."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clipalign.core.types import Preprocess, Stage
from clipalign.data.builtin.compose import Background, Clutter, background
from clipalign.data.builtin.pictograms import Pictograms

PLAIN = Preprocess((64, 64), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


# Sums over all channels and pixels: equal hashes would ask for equal rounding on every machine.
@pytest.mark.parametrize(
    ("stage", "total"), [("train", 381138.33297), ("validation", 378150.41113), ("test", 389412.87450)]
)
def test_pixels_have_not_moved(stage: Stage, total: float) -> None:
    rows = np.arange(0, 1280, 20)
    images = Pictograms().images(rows, stage, np.arange(64) % 4, 3, PLAIN)
    assert float(images.double().sum()) == pytest.approx(total, rel=1e-6)


def test_clutter_of_other_drawings_is_another_picture() -> None:
    spec = Background("clutter", 5)
    drawings = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 4, 8, 8), dtype=np.uint8))
    first, second = Clutter(drawings[0]), Clutter(drawings[1])
    for _ in range(2):  # made, then remembered
        assert not torch.equal(background(spec, 32, first), background(spec, 32, second))
        assert torch.equal(background(spec, 32, first), background(spec, 32, Clutter(drawings[0].clone())))
    assert background(spec, 16, first).shape == (3, 16, 16)


def test_clutter_forgets_when_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Clutter, "CACHE_BYTES", 2 * 3 * 16 * 16)
    clutter = Clutter(torch.full((1, 4, 8, 8), 255, dtype=torch.uint8))
    before = [clutter.background(Background("clutter", i), 16) for i in range(5)]
    assert len(clutter._cache) <= 2
    after = [clutter.background(Background("clutter", i), 16) for i in range(5)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_clutter_needs_drawings() -> None:
    with pytest.raises(ValueError, match="drawings"):
        background(Background("clutter", 0), 16, None)
