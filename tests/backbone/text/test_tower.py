"""Cutting the padding must not change a feature; prompts given as vectors take the same path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from clipalign.backbone import Backbone
from clipalign.core.errors import UserError

MakeBackbone = Callable[..., Backbone]

TEXTS = ["a cat", "a photo of a large red apple on a table.", "", "one two three"]

CAUSAL: dict[str, dict[str, Any]] = {
    "CLIP": {},
    "CustomTextCLIP": {"custom_text": True},
    "end token by id": {"text": {"pool_type": "eos", "eos_id": 49407}},
    "projection with bias": {"text": {"proj_bias": True}},
    "no projection": {"text": {"proj_type": "none"}},
    "own attention": {"text": {"block_type": "custom"}, "custom_text": True},
}
OTHERS: dict[str, dict[str, Any]] = {
    "bidirectional": {"text": {"no_causal_mask": True}, "custom_text": True},
    "last position": {"text": {"pool_type": "last"}},
    "class token at the end": {"text": {"embed_cls": True, "pool_type": "last"}, "custom_text": True},
}


def positions_run(backbone: Backbone, call: Callable[[], Tensor]) -> tuple[Tensor, set[int]]:
    lengths: set[int] = set()
    with backbone.hooks(tap=lambda tower, block, x: lengths.add(x.shape[1])):
        return call(), lengths


@pytest.mark.parametrize("variant", CAUSAL)
def test_cut_padding_changes_nothing(make: MakeBackbone, variant: str) -> None:
    backbone = make(**CAUSAL[variant])
    tokens = backbone.tokenizer(TEXTS)
    known = backbone.model.encode_text(tokens)
    got, lengths = positions_run(backbone, lambda: backbone.encode_text(TEXTS))
    torch.testing.assert_close(got, known)
    assert lengths == {int(tokens.argmax(-1).max()) + 1} and max(lengths) < 20
    torch.testing.assert_close(backbone.encode_text(tokens), known)
    torch.testing.assert_close(backbone.encode_text(tokens[:1]), known[:1])


def test_cut_padding_in_a_tower_of_the_other_layout(make: MakeBackbone) -> None:
    backbone = make()
    known = backbone.encode_text(TEXTS)
    backbone.model.transformer.batch_first = False
    for block in backbone.model.transformer.resblocks:
        block.attn.batch_first = False
    torch.testing.assert_close(backbone.encode_text(TEXTS), known)


@pytest.mark.parametrize("variant", OTHERS)
def test_other_towers_are_run_whole(make: MakeBackbone, variant: str) -> None:
    backbone = make(**OTHERS[variant])
    tokens = backbone.tokenizer(TEXTS)
    known = backbone.model.encode_text(tokens)
    torch.testing.assert_close(backbone.encode_text(TEXTS), known)
    # The padding does matter there, so this would fail if it were cut.
    if variant != "class token at the end":
        cut = tokens.clone()
        cut[:, -1] = 320
        assert not torch.allclose(backbone.model.encode_text(cut), known)
    with pytest.raises(UserError, match="causal text tower"):
        backbone.encode_prompt_embeddings(torch.zeros(1, 4, 24), torch.tensor([3]))
    with backbone.hooks(text=lambda block, x: x), pytest.raises(UserError, match="causal text tower"):
        backbone.encode_text(TEXTS)


def test_prompt_embeddings_take_the_same_path(make: MakeBackbone) -> None:
    backbone = make()
    tokens = backbone.tokenizer(TEXTS)
    known = backbone.model.encode_text(tokens)
    x, ends = backbone.embed_tokens(tokens)
    assert x.shape == (4, int(ends.max()) + 1, 24)
    torch.testing.assert_close(backbone.encode_prompt_embeddings(x, ends), known)
    # Whatever stands behind the last end token does not matter; what stands before it does.
    padded = torch.cat([x, torch.randn(4, 5, 24)], dim=1)
    torch.testing.assert_close(backbone.encode_prompt_embeddings(padded, ends), known)
    changed = x.clone()
    changed[:, 1] = torch.linspace(-1, 1, 24)
    assert (backbone.encode_prompt_embeddings(changed, ends) - known).abs().amax(-1).min() > 1e-3
    with pytest.raises(UserError, match="prompts of 21 positions"):
        backbone.encode_prompt_embeddings(torch.zeros(1, 21, 24), torch.tensor([3]))


def test_gradient_reaches_prompt_vectors(make: MakeBackbone) -> None:
    backbone = make()
    backbone.requires_grad_(False)
    x, ends = backbone.embed_tokens(backbone.tokenizer(TEXTS))
    vectors = torch.nn.Parameter(torch.randn(2, 24))
    prompts = torch.cat([x[:, :1], vectors.expand(4, -1, -1), x[:, 1:]], dim=1)
    backbone.encode_prompt_embeddings(prompts, ends + 2).square().sum().backward()
    assert vectors.grad is not None and (vectors.grad.abs().sum(-1) > 0).all()


def test_checkpointed_text_has_the_same_gradient(make: MakeBackbone) -> None:
    backbone = make()
    gradients = []
    for enable in (False, True):
        backbone.set_grad_checkpointing(enable)
        backbone.zero_grad()
        backbone.encode_text(TEXTS).square().sum().backward()
        gradients.append(backbone.model.transformer.resblocks[0].attn.in_proj_weight.grad.clone())
    torch.testing.assert_close(*gradients)
