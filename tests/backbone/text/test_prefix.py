"""Prompts encoded after a common prefix give the features and gradients of whole prompts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from clipalign.backbone import Backbone
from clipalign.backbone.text.tower import text_tower
from clipalign.core.errors import UserError

MakeBackbone = Callable[..., Backbone]

TOWERS: dict[str, dict[str, Any]] = {
    "CLIP": {},
    "QuickGELU": {"quick_gelu": True},
    "CustomTextCLIP": {"custom_text": True},
    "layer scale": {"text": {"ls_init_value": 0.3}},
    "end token by id": {"text": {"pool_type": "eos", "eos_id": 49407}},
    "projection with bias": {"text": {"proj_bias": True}},
    "no projection": {"text": {"proj_type": "none"}},
    "custom attention": {"text": {"block_type": "custom"}, "custom_text": True},
    "normalised queries": {"text": {"block_type": "custom", "qk_norm": True}, "custom_text": True},
}


def parts() -> tuple[Tensor, Tensor, Tensor]:
    """Return three prefixes of five tokens, and four continuations of up to six with their end positions."""
    generator = torch.Generator().manual_seed(0)
    prefix = torch.randn(3, 5, 24, generator=generator, requires_grad=True)
    rest = torch.randn(4, 6, 24, generator=generator, requires_grad=True)
    return prefix, rest, torch.tensor([5, 2, 3, 0])


def one_by_one(backbone: Backbone, prefix: Tensor, rest: Tensor, ends: Tensor) -> Tensor:
    """Return the features [G, C, d] of whole prompts, one forward pass each."""
    tower = text_tower(backbone.model)
    assert tower is not None
    rows = [
        tower.encode(torch.cat([p, r])[None], (end + len(p))[None], backbone._hooks)[0]
        for p in prefix
        for r, end in zip(rest, ends, strict=True)
    ]
    return torch.stack(rows).view(len(prefix), len(rest), -1)


@pytest.mark.parametrize("tower", TOWERS)
def test_features_and_gradients_match_whole_prompts(make: MakeBackbone, tower: str) -> None:
    backbone = make(**TOWERS[tower])
    prefix, rest, ends = parts()
    actual = backbone.encode_with_prefix(prefix, rest, ends)
    expected = one_by_one(backbone, prefix, rest, ends)
    torch.testing.assert_close(actual, expected)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    actual_gradients, expected_gradients = (
        torch.autograd.grad((features * weights).sum(), (prefix, rest)) for features in (actual, expected)
    )
    torch.testing.assert_close(actual_gradients, expected_gradients)


def test_blocks_run_on_prefixes_only_if_the_tower_supports_it(make: MakeBackbone) -> None:
    shapes: list[tuple[int, ...]] = []

    def record(block: int, tokens: Tensor) -> Tensor:
        shapes.append(tuple(tokens.shape))
        return tokens

    for backbone, shape in ((make(), (3, 5, 24)), (make(**TOWERS["normalised queries"]), (12, 11, 24))):
        shapes.clear()
        with backbone.hooks(text=record):
            backbone.encode_with_prefix(*parts())
        assert shapes == [shape] * 2


@pytest.mark.parametrize("tower", ["CLIP", "normalised queries"])
def test_text_hooks_change_the_prefixes(make: MakeBackbone, tower: str) -> None:
    backbone, learned = make(**TOWERS[tower]), torch.linspace(-1, 1, 48).view(2, 24)

    def overwrite(block: int, tokens: Tensor) -> Tensor:
        if block == 0:
            return tokens
        return torch.cat([tokens[:, :1], learned.expand(len(tokens), -1, -1), tokens[:, 3:]], dim=1)

    with backbone.hooks(text=overwrite):
        actual, expected = backbone.encode_with_prefix(*parts()), one_by_one(backbone, *parts())
    torch.testing.assert_close(actual, expected)
    assert not torch.allclose(actual, backbone.encode_with_prefix(*parts()))


def test_grad_checkpointing_and_taps_keep_features(make: MakeBackbone) -> None:
    backbone = make()
    expected = backbone.encode_with_prefix(*parts())
    lengths: set[int] = set()
    with backbone.hooks(tap=lambda tower, block, x: lengths.add(x.shape[1])):
        torch.testing.assert_close(backbone.encode_with_prefix(*parts()), expected)
    assert lengths == {11}
    backbone.set_grad_checkpointing()
    prefix, rest, ends = parts()
    actual = backbone.encode_with_prefix(prefix, rest, ends)
    torch.testing.assert_close(actual, expected)
    actual.sum().backward()
    assert prefix.grad is not None and rest.grad is not None


def test_prompts_beyond_the_context_length_are_refused(make: MakeBackbone) -> None:
    with pytest.raises(UserError, match="prompts of 21 tokens"):
        make().encode_with_prefix(torch.zeros(1, 15, 24), torch.zeros(1, 6, 24), torch.tensor([5]))
