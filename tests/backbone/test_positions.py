"""Stretched positional embeddings: Long-CLIP's recipe, and texts of the new length."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip.model import CustomTextCLIP
from torch import Tensor

from clipalign.backbone import Backbone, load, stretch_positions
from clipalign.backbone.positions import FrozenPositions, long_clip_length, stretch_table
from clipalign.core.errors import UserError
from tests.helpers.backbones import write_backbone

LONG = "a red fox. " * 60


def long_clip_recipe(table: np.ndarray, keep: int = 20) -> np.ndarray:
    """Return Long-CLIP's table, step by step: three rows between old neighbours, and three after the last row."""
    length, width = table.shape
    new = np.zeros((4 * length - 3 * keep, width))
    new[:keep] = table[:keep]
    for i in range(length - keep):
        row = table[keep + i]
        step = table[keep + i + 1] - row if i < length - keep - 1 else row - table[keep + i - 1]
        for quarter in range(4):
            new[keep + 4 * i + quarter] = row + quarter / 4 * step
    return new


@pytest.mark.parametrize(("length", "keep"), [(77, 20), (77, 0), (32, 5), (77, 75)])
def test_stretch_table_matches_long_clips_recipe(length: int, keep: int) -> None:
    table = torch.randn(length, 6, generator=torch.Generator().manual_seed(0))
    expected = long_clip_recipe(table.double().numpy(), keep)
    actual = stretch_table(table, len(expected), keep)
    assert len(expected) == long_clip_length(length, keep)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=0, atol=1e-6)
    assert torch.equal(actual[:keep], table[:keep]) and torch.equal(actual[keep::4], table[keep:])
    if (length, keep) == (77, 20):
        assert actual.shape == (248, 6)


def test_stretch_table_interpolates_linearly_at_any_length() -> None:
    line = torch.arange(10.0).unsqueeze(1)
    actual = stretch_table(line, 15, 4).squeeze(1)
    np.testing.assert_allclose(actual, [*range(4), *(4 + np.arange(11) * 6 / 11)], rtol=1e-6)


@pytest.mark.parametrize("kind", ["CLIP", "CustomTextCLIP"])
def test_stretched_backbone_encodes_long_texts_as_open_clip_does(
    tiny: Backbone, kind: str, tmp_path: Path
) -> None:
    backbone = tiny
    if kind == "CustomTextCLIP":
        backbone = load(write_backbone(tmp_path / "custom", custom_text=True))
        assert isinstance(backbone.model, CustomTextCLIP)
    prefix = "" if kind == "CLIP" else "text."
    short = "a fox and a dog"
    with torch.no_grad():
        before = backbone.encode_text([short])
    stretch_positions(backbone, 248)
    tokens = backbone.tokenize([short, LONG])
    assert tokens.ids.shape == (2, 248) and tokens.num_truncated == 0 and backbone.context_length == 248
    with torch.no_grad():
        actual, expected = backbone.encode_text(tokens.ids), backbone.model.encode_text(tokens.ids)
        torch.testing.assert_close(
            backbone.encode_text([short]), before
        )  # it fits into the first 20 positions
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    assert backbone.model.state_dict()[f"{prefix}positional_embedding"].shape == (248, 24)
    assert backbone.model.context_length == 248
    stretch_positions(backbone, 40)
    truncated = backbone.tokenize([LONG])
    assert truncated.ids.shape == (1, 40) and truncated.num_truncated == 1 and truncated.longest > 40
    with torch.no_grad():
        torch.testing.assert_close(backbone.encode_text([short]), before)


def test_frozen_rows_survive_weight_decay_while_the_others_are_trained(tiny: Backbone) -> None:
    stretch_positions(tiny, 248)
    table = tiny.model.positional_embedding
    before: Tensor = table.detach().clone()
    frozen = FrozenPositions(tiny, 20)
    optimizer = torch.optim.AdamW([table], lr=0.1, weight_decay=0.5)
    tiny.encode_text([LONG]).square().sum().backward()
    assert table.grad is not None and not table.grad[:20].any() and table.grad[20:].any()
    optimizer.step()
    assert not torch.equal(table[:20], before[:20])  # changed by weight decay
    frozen.restore()
    assert torch.equal(table[:20], before[:20]) and not torch.equal(table[20:], before[20:])
    frozen.remove()
    tiny.encode_text([LONG]).square().sum().backward()
    assert table.grad[:20].any()


def test_impossible_lengths_and_towers_are_refused(tiny: Backbone) -> None:
    with pytest.raises(UserError, match="--keep-positions 76"):
        stretch_positions(tiny, 248, 76)
    with pytest.raises(UserError, match="--context-length 1"):
        stretch_positions(tiny, 1)
    tiny.model.cls_emb = torch.nn.Parameter(torch.zeros(24))
    with pytest.raises(UserError, match="no positional embedding that can be stretched"):
        stretch_positions(tiny, 248)
    assert tiny.context_length == 77
