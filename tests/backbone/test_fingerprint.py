"""Cached text features are used exactly as long as the weights of the text tower are unchanged."""

from __future__ import annotations

import copy

import pytest
import torch

from clipalign.backbone import Backbone, load
from clipalign.backbone.fingerprint import text_fingerprint
from clipalign.backbone.text.features import class_text_features

NAMES = ("red square", "blue circle")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of texts of each call of `encode_text`."""
    counted: list[int] = []
    encode = Backbone.encode_text

    def counting(self: Backbone, texts: torch.Tensor) -> torch.Tensor:
        counted.append(len(texts))
        return encode(self, texts)

    monkeypatch.setattr(Backbone, "encode_text", counting)
    return counted


def test_backbones_with_equal_weights_share_cached_features(
    tiny: Backbone, tiny_spec: str, calls: list[int]
) -> None:
    tiny.requires_grad_(False)
    plain = class_text_features(tiny, NAMES)
    tiny.text_cache = {}
    first = class_text_features(tiny, NAMES)
    again = class_text_features(tiny, NAMES)
    again.zero_()  # the caller may change what it received
    other = load(tiny_spec).requires_grad_(False)
    other.text_cache = tiny.text_cache
    third = class_text_features(other, NAMES)
    assert calls == [2, 2]
    assert torch.equal(plain, first) and torch.equal(first, third)
    class_text_features(other, NAMES, ("a drawing of a {}.",))
    class_text_features(other, NAMES[:1])
    assert calls == [2, 2, 2, 1]


def test_cache_is_not_used_after_weights_change_or_under_hooks(tiny: Backbone, calls: list[int]) -> None:
    tiny.requires_grad_(False)
    tiny.text_cache = {}
    before = class_text_features(tiny, NAMES)
    parameter = tiny.model.token_embedding.weight
    with torch.no_grad():
        parameter.add_(torch.randn_like(parameter))
    after = class_text_features(tiny, NAMES)
    assert not torch.equal(before, after) and len(calls) == 2
    tiny.model.load_state_dict(copy.deepcopy(tiny.model.state_dict()))  # written, with the same values
    assert torch.equal(class_text_features(tiny, NAMES), after) and len(calls) == 2
    parameter.requires_grad_(True)  # a method trains it
    assert text_fingerprint(tiny) is None
    class_text_features(tiny, NAMES)
    assert len(calls) == 3
    parameter.requires_grad_(False)
    with tiny.hooks(text=lambda block, tokens: tokens + 1):
        assert text_fingerprint(tiny) is None
        assert not torch.equal(class_text_features(tiny, NAMES), after)
    assert torch.equal(class_text_features(tiny, NAMES), after)


def test_fingerprint_ignores_the_image_tower(tiny: Backbone) -> None:
    tiny.requires_grad_(False)
    before = text_fingerprint(tiny)
    for parameter in tiny.image_parameters():
        parameter.requires_grad_(True).data.zero_()
    assert text_fingerprint(tiny) == before is not None
