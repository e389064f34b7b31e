"""Prompts encoded behind a common beginning must be those encoded whole, values and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from clipalign.backbone import Backbone
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
    "own attention": {"text": {"block_type": "custom"}, "custom_text": True},
    "normalised queries": {"text": {"block_type": "custom", "qk_norm": True}, "custom_text": True},
}


def pieces() -> tuple[Tensor, Tensor, Tensor]:
    """Three beginnings of five rows, four continuations of up to six."""
    generator = torch.Generator().manual_seed(0)
    prefix = torch.randn(3, 5, 24, generator=generator, requires_grad=True)
    rest = torch.randn(4, 6, 24, generator=generator, requires_grad=True)
    return prefix, rest, torch.tensor([5, 2, 3, 0])


def whole(backbone: Backbone, prefix: Tensor, rest: Tensor, ends: Tensor) -> Tensor:
    """One prompt at a time."""
    rows = [
        backbone.encode_prompt_embeddings(torch.cat([p, r])[None], (end + len(p))[None])[0]
        for p in prefix
        for r, end in zip(rest, ends, strict=True)
    ]
    return torch.stack(rows).view(len(prefix), len(rest), -1)


@pytest.mark.parametrize("tower", TOWERS)
def test_the_same_features_and_gradients(make: MakeBackbone, tower: str) -> None:
    backbone = make(**TOWERS[tower])
    prefix, rest, ends = pieces()
    got, known = backbone.encode_with_prefix(prefix, rest, ends), whole(backbone, prefix, rest, ends)
    torch.testing.assert_close(got, known)
    weights = torch.randn(known.shape, generator=torch.Generator().manual_seed(1))
    for mine, theirs in zip(
        torch.autograd.grad((got * weights).sum(), (prefix, rest)),
        torch.autograd.grad((known * weights).sum(), (prefix, rest)),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)


def test_it_is_the_short_way(make: MakeBackbone) -> None:
    seen: list[tuple[int, ...]] = []

    def count(block: int, tokens: Tensor) -> Tensor:
        seen.append(tuple(tokens.shape))
        return tokens

    for backbone, shape in ((make(), (3, 5, 24)), (make(**TOWERS["normalised queries"]), (12, 11, 24))):
        seen.clear()
        with backbone.hooks(text=count):
            backbone.encode_with_prefix(*pieces())
        assert set(seen) == {shape} and len(seen) == 2


@pytest.mark.parametrize("tower", ["CLIP", "normalised queries"])
def test_deep_prompts_enter_the_beginnings(make: MakeBackbone, tower: str) -> None:
    backbone, learned = make(**TOWERS[tower]), torch.linspace(-1, 1, 48).view(2, 24)

    def overwrite(block: int, tokens: Tensor) -> Tensor:
        if block == 0:
            return tokens
        return torch.cat([tokens[:, :1], learned.expand(len(tokens), -1, -1), tokens[:, 3:]], dim=1)

    with backbone.hooks(text=overwrite):
        got, known = backbone.encode_with_prefix(*pieces()), whole(backbone, *pieces())
    torch.testing.assert_close(got, known)
    assert not torch.allclose(got, backbone.encode_with_prefix(*pieces()))


def test_checkpointing_and_taps_change_nothing(make: MakeBackbone) -> None:
    backbone = make()
    known = backbone.encode_with_prefix(*pieces())
    lengths: set[int] = set()
    with backbone.hooks(tap=lambda tower, block, x: lengths.add(x.shape[1])):
        torch.testing.assert_close(backbone.encode_with_prefix(*pieces()), known)
    assert lengths == {11}
    backbone.set_grad_checkpointing()
    prefix, rest, ends = pieces()
    again = backbone.encode_with_prefix(prefix, rest, ends)
    torch.testing.assert_close(again, known)
    again.sum().backward()
    assert prefix.grad is not None and rest.grad is not None


def test_prompts_longer_than_the_text_window_are_refused(make: MakeBackbone) -> None:
    with pytest.raises(UserError, match="prompts of 21 positions"):
        make().encode_with_prefix(torch.zeros(1, 15, 24), torch.zeros(1, 6, 24), torch.tensor([5]))
