"""The text tower: cutting padding changes no feature, and token embeddings take the same path as texts."""

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
    "custom attention": {"text": {"block_type": "custom"}, "custom_text": True},
}
OTHERS: dict[str, dict[str, Any]] = {
    "bidirectional": {"text": {"no_causal_mask": True}, "custom_text": True},
    "last position": {"text": {"pool_type": "last"}},
    "class token at the end": {"text": {"embed_cls": True, "pool_type": "last"}, "custom_text": True},
}


def with_lengths(backbone: Backbone, call: Callable[[], Tensor]) -> tuple[Tensor, set[int]]:
    """Return the result of a call, and the sequence lengths that blocks ran at."""
    lengths: set[int] = set()
    with backbone.hooks(tap=lambda tower, block, x: lengths.add(x.shape[1])):
        return call(), lengths


@pytest.mark.parametrize("variant", CAUSAL)
def test_encode_text_cuts_padding_and_matches_open_clip(make: MakeBackbone, variant: str) -> None:
    backbone = make(**CAUSAL[variant])
    tokens = backbone.tokenizer(TEXTS)
    expected = backbone.model.encode_text(tokens)
    actual, lengths = with_lengths(backbone, lambda: backbone.encode_text(TEXTS))
    torch.testing.assert_close(actual, expected)
    assert lengths == {int(tokens.argmax(-1).max()) + 1} and max(lengths) < 20
    torch.testing.assert_close(backbone.encode_text(tokens), expected)
    torch.testing.assert_close(backbone.encode_text(tokens[:1]), expected[:1])


def test_encode_text_works_in_sequence_first_layout(make: MakeBackbone) -> None:
    backbone = make()
    expected = backbone.encode_text(TEXTS)
    backbone.model.transformer.batch_first = False
    for block in backbone.model.transformer.resblocks:
        block.attn.batch_first = False
    torch.testing.assert_close(backbone.encode_text(TEXTS), expected)


@pytest.mark.parametrize("variant", OTHERS)
def test_other_towers_run_all_positions_and_refuse_hooks(make: MakeBackbone, variant: str) -> None:
    backbone = make(**OTHERS[variant])
    tokens = backbone.tokenizer(TEXTS)
    expected = backbone.model.encode_text(tokens)
    torch.testing.assert_close(backbone.encode_text(TEXTS), expected)
    # Padding affects these features, so the comparison above would fail if it were cut.
    if variant != "class token at the end":
        changed = tokens.clone()
        changed[:, -1] = 320
        assert not torch.allclose(backbone.model.encode_text(changed), expected)
    with pytest.raises(UserError, match="causal text tower"):
        backbone.encode_with_prefix(torch.zeros(1, 1, 24), torch.zeros(1, 3, 24), torch.tensor([2]))
    with backbone.hooks(text=lambda block, x: x), pytest.raises(UserError, match="causal text tower"):
        backbone.encode_text(TEXTS)


def encode_embeddings(backbone: Backbone, x: Tensor, ends: Tensor) -> Tensor:
    """Return features of whole prompts [C, L, W], which share only their start token."""
    return backbone.encode_with_prefix(x[:1, :1], x[:, 1:], ends - 1)[0]


def test_token_embeddings_give_the_features_of_their_texts(make: MakeBackbone) -> None:
    backbone = make()
    tokens = backbone.tokenizer(TEXTS)
    expected = backbone.model.encode_text(tokens)
    x, ends = backbone.embed_tokens(tokens)
    assert x.shape == (4, int(ends.max()) + 1, 24)
    torch.testing.assert_close(encode_embeddings(backbone, x, ends), expected)
    # Tokens after the end token have no influence; those before it do.
    padded = torch.cat([x, torch.randn(4, 5, 24)], dim=1)
    torch.testing.assert_close(encode_embeddings(backbone, padded, ends), expected)
    changed = x.clone()
    changed[:, 1] = torch.linspace(-1, 1, 24)
    assert (encode_embeddings(backbone, changed, ends) - expected).abs().amax(-1).min() > 1e-3


def test_learned_vectors_receive_gradients(make: MakeBackbone) -> None:
    backbone = make()
    backbone.requires_grad_(False)
    x, ends = backbone.embed_tokens(backbone.tokenizer(TEXTS))
    vectors = torch.nn.Parameter(torch.randn(2, 24))
    prompts = torch.cat([x[:, :1], vectors.expand(4, -1, -1), x[:, 1:]], dim=1)
    encode_embeddings(backbone, prompts, ends + 2).square().sum().backward()
    assert vectors.grad is not None and (vectors.grad.abs().sum(-1) > 0).all()


def test_grad_checkpointing_keeps_text_gradients(make: MakeBackbone) -> None:
    backbone = make()
    gradients = []
    for enable in (False, True):
        backbone.set_grad_checkpointing(enable)
        backbone.zero_grad()
        backbone.encode_text(TEXTS).square().sum().backward()
        gradients.append(backbone.model.transformer.resblocks[0].attn.in_proj_weight.grad.clone())
    torch.testing.assert_close(*gradients)


def test_text_states_match_open_clip(tiny: Backbone) -> None:
    tokens = tiny.tokenize(["a red fox", "a small green square to the left of a dog", "!"]).ids
    with torch.no_grad():
        features, states = tiny.text_states(tokens)
        torch.testing.assert_close(features, tiny.encode_text(tokens))
        x = tiny.model.token_embedding(tokens) + tiny.model.positional_embedding
        expected = tiny.model.ln_final(tiny.model.transformer(x, attn_mask=tiny.model.attn_mask))
    assert tiny.text_lengths(tokens).tolist() == [5, 12, 3]
    assert states.shape == (3, 12, 24) and tiny.text_heads == 2
    torch.testing.assert_close(states, expected[:, :12])
