"""Composition: pixels behind the published results, contrast of backgrounds, and caches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clipalign.core.types import Preprocess, Stage
from clipalign.data.builtin.compose import (
    MIN_CONTRAST,
    Background,
    Clutter,
    background,
    contrast,
    contrasting,
)
from clipalign.data.builtin.pictograms import Pictograms

PLAIN = Preprocess((64, 64), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


# Sums over all channels and pixels; hashes would require identical rounding on every machine.
@pytest.mark.parametrize(
    ("stage", "total"), [("train", 381138.33297), ("validation", 378150.41113), ("test", 389412.87450)]
)
def test_pixels_of_pictograms_are_pinned(stage: Stage, total: float) -> None:
    rows = np.arange(0, 1280, 20)
    images = Pictograms().images(rows, stage, np.arange(64) % 4, 3, PLAIN)
    assert float(images.double().sum()) == pytest.approx(total, rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_contrasting_keeps_visible_backgrounds_and_improves_others(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    back = torch.rand(6, 3, 8, 8, generator=generator)
    alpha = torch.rand(6, 1, 8, 8, generator=generator)
    colour = torch.rand(6, 3, 1, 1, generator=generator)
    placed = torch.cat([colour * alpha, alpha], dim=1)  # [6, 4, 8, 8], premultiplied
    before, result = contrast(back, placed), contrasting(back, placed)
    after = contrast(result, placed)
    visible = before >= MIN_CONTRAST
    assert torch.equal(result[visible], back[visible])
    options = torch.stack([contrast(o, placed) for o in (1 - back, 0 * back, torch.ones_like(back))])
    best = options.amax(0)
    assert bool(((after >= MIN_CONTRAST) | (after == best))[~visible].all())


def test_contrasting_prefers_the_negative_to_black_and_white() -> None:
    back = torch.full((1, 3, 4, 4), 0.9)
    placed = torch.cat([torch.full((1, 3, 4, 4), 0.95), torch.ones(1, 1, 4, 4)], dim=1)
    assert torch.equal(contrasting(back, placed), 1 - back)


def test_clutter_depends_on_its_drawings() -> None:
    spec = Background("clutter", 5)
    drawings = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 4, 8, 8), dtype=np.uint8))
    first, second = Clutter(drawings[0]), Clutter(drawings[1])
    for _ in range(2):  # rendered, then cached
        assert not torch.equal(background(spec, 32, first), background(spec, 32, second))
        assert torch.equal(background(spec, 32, first), background(spec, 32, Clutter(drawings[0].clone())))
    assert background(spec, 16, first).shape == (3, 16, 16)


def test_clutter_cache_is_bounded_and_keeps_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Clutter, "CACHE_BYTES", 2 * 3 * 16 * 16)
    clutter = Clutter(torch.full((1, 4, 8, 8), 255, dtype=torch.uint8))
    before = [clutter.background(Background("clutter", i), 16) for i in range(5)]
    assert len(clutter._cache) <= 2
    after = [clutter.background(Background("clutter", i), 16) for i in range(5)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_background_of_clutter_needs_drawings() -> None:
    with pytest.raises(ValueError, match="drawings"):
        background(Background("clutter", 0), 16, None)
