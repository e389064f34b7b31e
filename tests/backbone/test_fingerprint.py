"""Text features are kept as long as the text tower is what it was, and not a write longer."""

from __future__ import annotations

import copy

import pytest
import torch

from clipalign.backbone import Backbone, load, text_fingerprint
from clipalign.backbone.text.features import class_text_features

NAMES = ("red square", "blue circle")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Texts that were encoded, call by call."""
    counted: list[int] = []
    encode = Backbone.encode_text

    def counting(self: Backbone, texts: torch.Tensor) -> torch.Tensor:
        counted.append(len(texts))
        return encode(self, texts)

    monkeypatch.setattr(Backbone, "encode_text", counting)
    return counted


def test_equal_weights_share_their_features(tiny: Backbone, tiny_spec: str, calls: list[int]) -> None:
    tiny.requires_grad_(False)
    plain = class_text_features(tiny, NAMES)
    tiny.text_cache = {}
    first = class_text_features(tiny, NAMES)
    again = class_text_features(tiny, NAMES)
    again.zero_()  # what is handed out may be changed
    other = load(tiny_spec).requires_grad_(False)
    other.text_cache = tiny.text_cache
    third = class_text_features(other, NAMES)
    assert calls == [2, 2]
    assert torch.equal(plain, first) and torch.equal(first, third)
    class_text_features(other, NAMES, ("a drawing of a {}.",))
    class_text_features(other, NAMES[:1])
    assert calls == [2, 2, 2, 1]


def test_nothing_stale(tiny: Backbone, calls: list[int]) -> None:
    tiny.requires_grad_(False)
    tiny.text_cache = {}
    before = class_text_features(tiny, NAMES)
    parameter = tiny.model.token_embedding.weight
    with torch.no_grad():
        parameter.add_(torch.randn_like(parameter))
    after = class_text_features(tiny, NAMES)
    assert not torch.equal(before, after) and len(calls) == 2
    tiny.model.load_state_dict(copy.deepcopy(tiny.model.state_dict()))  # written to, with the same values
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


def test_the_image_tower_does_not_matter(tiny: Backbone) -> None:
    tiny.requires_grad_(False)
    before = text_fingerprint(tiny)
    for parameter in tiny.image_parameters():
        parameter.requires_grad_(True).data.zero_()
    assert text_fingerprint(tiny) == before is not None
