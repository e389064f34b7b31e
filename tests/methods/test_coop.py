"""CoOp against the published assembly of prompts: dummy words replaced in a whole text window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from clipalign.core.errors import UnseenClasses, UserError
from clipalign.methods.coop import CoOp
from clipalign.methods.zeroshot import ZeroShot
from tests.helpers.prompts import (
    NAMES,
    UNSEEN,
    WINDOW,
    backbone,
    batch_of,
    check_loss,
    check_trained,
    encode_images,
    encode_window,
    prompt_names,
    randomise,
    ready,
    window_with,
    zeroshot_logits,
)


def literal(method: Any, images: Tensor, names: Sequence[str]) -> Tensor:
    """Logits with "X ... X name." embedded, the X's replaced, and the name moved to its place."""
    tower, position = method.backbone, method.config.class_position
    features = []
    for i, name in enumerate(prompt_names(names)):
        vectors = method.context[i] if method.context.dim() == 3 else method.context
        m = len(vectors)
        x, end = window_with(tower, vectors, name)
        length = len(tower.tokenizer.encode(name))
        start, _, words, rest = x[0].split([1, m, length, WINDOW - 1 - m - length])
        half = {"end": m, "middle": m // 2, "front": 0}[position]
        moved = torch.cat([start, vectors[:half], words, vectors[half:], rest])
        features.append(encode_window(tower, moved[None], end))
    return tower.logit_scale * encode_images(tower, images) @ torch.stack(features).T


@pytest.mark.parametrize("class_specific", [False, True])
@pytest.mark.parametrize("class_position", ["end", "middle", "front"])
def test_loss_and_gradient_are_those_of_the_published_assembly(
    class_position: str, class_specific: bool
) -> None:
    method = ready(CoOp, context_tokens=5, class_position=class_position, class_specific=class_specific)
    randomise(method)
    batch = batch_of()
    known = F.cross_entropy(literal(method, batch.images, NAMES), batch.labels)
    check_loss(method, batch, known)
    torch.testing.assert_close(method.classifier(NAMES)(batch.images), literal(method, batch.images, NAMES))


@pytest.mark.parametrize("class_position", ["end", "middle", "front"])
def test_unseen_names_are_encoded_anew(class_position: str) -> None:
    method = ready(CoOp, context_tokens=5, class_position=class_position)
    randomise(method)
    images = batch_of().images
    torch.testing.assert_close(method.classifier(UNSEEN)(images), literal(method, images, UNSEEN))


def test_with_the_words_of_the_template_it_is_zeroshot() -> None:
    method = ready(CoOp, context_init="a photo of a")
    assert method.resolved() == {"context_tokens": 4}
    zeroshot = ready(ZeroShot, method.backbone)
    images = batch_of().images
    for names in (NAMES, UNSEEN):
        got = method.classifier(names)(images)
        torch.testing.assert_close(got, zeroshot.classifier(names)(images), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(got, zeroshot_logits(method.backbone, images, names), atol=1e-4, rtol=1e-4)


def test_random_start_has_16_vectors_of_the_published_spread() -> None:
    method = ready(CoOp, backbone(), context_tokens=None, context_init="")
    assert method.context.shape == (16, 24) and 0.01 < float(method.context.detach().std()) < 0.03
    specific = ready(CoOp, class_specific=True, context_tokens=4)
    assert specific.context.shape == (4, 4, 24) and 0.01 < float(specific.context.detach().std()) < 0.03
    assert not torch.equal(specific.context[0], specific.context[1])
    alike = ready(CoOp, class_specific=True, context_init="a photo of a")
    assert torch.equal(alike.context[0], alike.context[1])


def test_only_the_context_is_trained() -> None:
    method = ready(CoOp, context_tokens=2)
    check_trained(method)
    assert [p.shape for p in method.parameters()] == [(2, 24)]


def test_class_specific_context_follows_the_names_and_knows_no_others() -> None:
    method = ready(CoOp, context_tokens=3, class_specific=True)
    randomise(method)
    images = batch_of().images
    whole = method.classifier(NAMES)(images)
    torch.testing.assert_close(method.classifier(("Ice", "dog"))(images), whole[:, [3, 1]])
    with pytest.raises(UnseenClasses, match='there is none for "very old wooden boat" and 1 more'):
        method.classifier(UNSEEN)


def test_another_start_is_loaded_over() -> None:
    method = ready(CoOp, context_tokens=3)
    randomise(method)
    other = ready(CoOp, context_tokens=3)
    other.load_state_dict({k: v.clone() for k, v in method.state_dict().items()})
    images = batch_of().images
    assert torch.equal(method.classifier(UNSEEN)(images), other.classifier(UNSEEN)(images))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context_tokens": 20}, '--context-tokens 20: the prompt of "red apple" would have 25 tokens'),
        ({"context_tokens": 0}, "--context-tokens must be at least 1"),
        ({"context_tokens": 5, "context_init": "a photo of a"}, "has 4 tokens"),
        ({"context_init": "a " * 30}, "--context-init"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ready(CoOp, **options)


def test_a_new_name_that_does_not_fit_is_refused_with_its_name() -> None:
    method = ready(CoOp, context_tokens=15)
    with pytest.raises(UserError, match="very old wooden"):
        method.classifier(("dog", "very old wooden sailing boat at sea"))
