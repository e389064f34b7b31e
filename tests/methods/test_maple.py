"""MaPLe against its published forward pass, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from clipalign.core.errors import UserError
from clipalign.methods.maple import Maple
from tests.helpers.prompts import (
    NAMES,
    UNSEEN,
    backbone,
    batch_of,
    check_loss,
    check_trained,
    encode_images,
    encode_window,
    prompt_names,
    randomise,
    ready,
    window,
    window_with,
    zeroshot_logits,
)


def literal(method: Any, images: Tensor, names: Sequence[str]) -> Tensor:
    """Logits; rows 1-2 of the text and the last two of the image are overwritten before blocks 1 ... J - 1."""
    tower, p = method.backbone, method.vectors
    f = [
        coupling.weight @ v + coupling.bias
        for coupling, vs in zip(method.couplings, p, strict=True)
        for v in vs
    ]
    visual = torch.stack(f).view(len(p), 2, -1)

    def in_text(block: int, x: Tensor) -> Tensor:
        if block == 0 or block >= len(p):
            return x
        x = x.clone()
        x[:, 1:3] = p[block]
        return x

    def in_vision(block: int, x: Tensor) -> Tensor:
        if block == 0 or block >= len(p):
            return x
        x = x.clone()
        x[:, -2:] = visual[block]
        return x

    features = []
    for name in prompt_names(names):
        x, end = window(tower, f"a photo of a {name}.")
        x = x.clone()
        x[:, 1:3] = p[0]  # "a photo" gives way, "of a" stays
        features.append(encode_window(tower, x, end, in_text))
    encoded = encode_images(tower, images, visual[0], in_vision)
    return tower.logit_scale * encoded @ torch.stack(features).T


@pytest.mark.parametrize("prompt_depth", [1, 2, 3])
def test_loss_and_gradient_are_those_of_the_published_pass(prompt_depth: int) -> None:
    method = ready(Maple, prompt_depth=prompt_depth)
    randomise(method)
    batch = batch_of()
    known = F.cross_entropy(literal(method, batch.images, NAMES), batch.labels)
    check_loss(method, batch, known)
    for names in (NAMES, UNSEEN):
        got = method.classifier(names)(batch.images)
        torch.testing.assert_close(got, literal(method, batch.images, names))


def test_text_side_starts_as_the_phrase() -> None:
    """With depth 1 the text is that of zero-shot; only the vision tower has something new."""
    method = ready(Maple, prompt_depth=1)
    batch = batch_of()
    appended = method.couplings[0](method.vectors[0])
    text = zeroshot_logits(method.backbone, batch.images, NAMES)
    image = encode_images(method.backbone, batch.images, appended)
    without = encode_images(method.backbone, batch.images)
    with method.hooks():
        features = method.prompt_features(method.prompts)
    torch.testing.assert_close(method.backbone.logit_scale * without @ features.T, text)
    got = method.classifier(NAMES)(batch.images)
    torch.testing.assert_close(got, method.backbone.logit_scale * image @ features.T)


def test_more_vectors_than_words_stand_alone() -> None:
    method = ready(Maple, context_tokens=5, prompt_depth=1)
    tower, features = method.backbone, []
    for name in prompt_names(NAMES):
        features.append(encode_window(tower, *window_with(tower, method.vectors[0], name)))
    with method.hooks():
        torch.testing.assert_close(method.prompt_features(method.prompts), torch.stack(features))


def test_depth_is_three_quarters_of_the_shallower_tower() -> None:
    for text, vision, depth in ((4, 6, 3), (12, 12, 9), (1, 4, 1), (8, 2, 2)):
        method = ready(Maple, backbone(text, vision))
        assert method.resolved() == {"prompt_depth": depth} and len(method.couplings) == depth


def test_prompts_and_couplings_are_trained_and_deep_couplings_start_alike() -> None:
    method = ready(Maple)
    check_trained(method)
    depth, m, text, vision = 2, 2, 24, 32
    # The same sum with 9, 2, 512 and 768 is the published 3 555 072.
    assert sum(p.numel() for p in method.parameters()) == depth * (m * text + (text + 1) * vision)
    first, second, third = ready(Maple, prompt_depth=3).couplings
    assert torch.equal(second.weight, third.weight) and second.weight is not third.weight
    assert not torch.equal(first.weight, second.weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_depth": 4}, "--prompt-depth 4: this backbone allows 1 to 3"),
        ({"prompt_depth": 0}, "--prompt-depth 0"),
        ({"context_tokens": 0}, "--context-tokens"),
        ({"context_tokens": 21}, "--context-tokens 21: the prompt of"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ready(Maple, **options)
