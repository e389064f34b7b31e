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

TEXTS = ["a red fox", "a small green square to the left of a dog", "!"]
LONG = "a red fox. " * 60


def recipe(table: np.ndarray, keep: int = 20) -> np.ndarray:
    """Long-CLIP's steps: rows kept, three between each two of the others, three behind the last."""
    length, width = table.shape
    new = np.zeros((4 * length - 3 * keep, width))
    new[:keep] = table[:keep]
    for i in range(length - keep):
        here = table[keep + i]
        step = table[keep + i + 1] - here if i < length - keep - 1 else here - table[keep + i - 1]
        for quarter in range(4):
            new[keep + 4 * i + quarter] = here + quarter / 4 * step
    return new


@pytest.mark.parametrize(("length", "keep"), [(77, 20), (77, 0), (32, 5), (77, 75)])
def test_it_is_long_clips_recipe(length: int, keep: int) -> None:
    table = torch.randn(length, 6, generator=torch.Generator().manual_seed(0))
    wanted = recipe(table.double().numpy(), keep)
    found = stretch_table(table, len(wanted), keep)
    assert len(wanted) == long_clip_length(length, keep)
    np.testing.assert_allclose(found.numpy(), wanted, rtol=0, atol=1e-6)
    assert torch.equal(found[:keep], table[:keep]) and torch.equal(found[keep::4], table[keep:])
    if (length, keep) == (77, 20):
        assert found.shape == (248, 6)


def test_any_other_length_reads_the_line_between_rows() -> None:
    line = torch.arange(10.0).unsqueeze(1)
    found = stretch_table(line, 15, 4).squeeze(1)
    np.testing.assert_allclose(found, [*range(4), *(4 + np.arange(11) * 6 / 11)], rtol=1e-6)


@pytest.mark.parametrize("kind", ["CLIP", "CustomTextCLIP"])
def test_a_stretched_tower_reads_long_texts_through_either_path(
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
        ours, theirs = backbone.encode_text(tokens.ids), backbone.model.encode_text(tokens.ids)
        torch.testing.assert_close(backbone.encode_text([short]), before)  # inside the first 20
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert backbone.model.state_dict()[f"{prefix}positional_embedding"].shape == (248, 24)
    assert backbone.model.context_length == 248
    stretch_positions(backbone, 40)
    assert backbone.tokenize([LONG]).tokens_cut == backbone.tokenize([LONG]).longest - 40
    with torch.no_grad():
        torch.testing.assert_close(backbone.encode_text([short]), before)


def test_states_are_open_clips_and_shorter_texts_lengths_are_known(tiny: Backbone) -> None:
    tokens = tiny.tokenize(TEXTS).ids
    with torch.no_grad():
        features, states = tiny.text_states(tokens)
        torch.testing.assert_close(features, tiny.encode_text(tokens))
        x = tiny.model.token_embedding(tokens) + tiny.model.positional_embedding
        wanted = tiny.model.ln_final(tiny.model.transformer(x, attn_mask=tiny.model.attn_mask))
    lengths = tiny.text_lengths(tokens)
    assert lengths.tolist() == [5, 12, 3] and states.shape == (3, 12, 24) and tiny.text_heads == 2
    torch.testing.assert_close(states, wanted[:, :12])


def test_the_first_rows_stay_through_decay_and_the_others_learn(tiny: Backbone) -> None:
    stretch_positions(tiny, 248)
    table = tiny.model.positional_embedding
    before: Tensor = table.detach().clone()
    kept = FrozenPositions(tiny, 20)
    optimizer = torch.optim.AdamW([table], lr=0.1, weight_decay=0.5)
    tiny.encode_text([LONG]).square().sum().backward()
    assert table.grad is not None and not table.grad[:20].any() and table.grad[20:].any()
    optimizer.step()
    kept.restore()
    assert torch.equal(table[:20], before[:20]) and not torch.equal(table[20:], before[20:])
    kept.remove()
    tiny.encode_text([LONG]).square().sum().backward()
    assert table.grad[:20].any()


def test_what_cannot_be_stretched_is_refused(tiny: Backbone) -> None:
    with pytest.raises(UserError, match="--keep-positions 76"):
        stretch_positions(tiny, 248, 76)
    with pytest.raises(UserError, match="--context-length 1"):
        stretch_positions(tiny, 1)
    tiny.model.cls_emb = torch.nn.Parameter(torch.zeros(24))
    with pytest.raises(UserError, match="no table of positions"):
        stretch_positions(tiny, 248)
    assert tiny.context_length == 77
