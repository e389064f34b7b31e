"""CoOp against the published assembly of prompts: placeholder words replaced in a full text window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from clipalign.backbone.text.context import embed_phrase
from clipalign.core.errors import UnseenClasses, UserError
from clipalign.core.types import TestSet
from clipalign.methods.coop import CoOp
from clipalign.methods.zeroshot import ZeroShot
from clipalign.protocols.names_only import NamesOnly, names_episode
from tests.helpers.prompts import (
    NAMES,
    TEMPLATE,
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


def reference_logits(method: Any, images: Tensor, names: Sequence[str]) -> Tensor:
    """Return logits of "X ... X name." with the X's replaced by vectors and the name moved to its position."""
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
def test_loss_and_gradient_equal_published_prompt_assembly(class_position: str, class_specific: bool) -> None:
    method = ready(CoOp, context_tokens=5, class_position=class_position, class_specific=class_specific)
    randomise(method)
    batch = batch_of()
    expected = F.cross_entropy(reference_logits(method, batch.images, NAMES), batch.labels)
    check_loss(method, batch, expected)
    torch.testing.assert_close(
        method.classifier(NAMES)(batch.images), reference_logits(method, batch.images, NAMES)
    )


@pytest.mark.parametrize("class_position", ["end", "middle", "front"])
def test_new_class_names_are_encoded_with_the_context(class_position: str) -> None:
    method = ready(CoOp, context_tokens=5, class_position=class_position)
    randomise(method)
    images = batch_of().images
    torch.testing.assert_close(method.classifier(UNSEEN)(images), reference_logits(method, images, UNSEEN))


def test_context_of_template_words_equals_zero_shot() -> None:
    method = ready(CoOp, context_init="a photo of a")
    assert method.resolved() == {"context_tokens": 4}
    zeroshot = ready(ZeroShot, method.backbone)
    images = batch_of().images
    for names in (NAMES, UNSEEN):
        got = method.classifier(names)(images)
        torch.testing.assert_close(got, zeroshot.classifier(names)(images), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(got, zeroshot_logits(method.backbone, images, names), atol=1e-4, rtol=1e-4)


def test_random_context_has_16_vectors_with_published_std() -> None:
    method = ready(CoOp, backbone(), context_tokens=None, context_init="")
    assert method.context.shape == (16, 24) and 0.01 < float(method.context.detach().std()) < 0.03
    specific = ready(CoOp, class_specific=True, context_tokens=4)
    assert specific.context.shape == (4, 4, 24) and 0.01 < float(specific.context.detach().std()) < 0.03
    assert not torch.equal(specific.context[0], specific.context[1])
    equal = ready(CoOp, class_specific=True, context_init="a photo of a")
    assert torch.equal(equal.context[0], equal.context[1])


def coop_tested_on(classes: tuple[int, ...], **options: Any) -> CoOp:
    """Return CoOp trained on the first two classes, and tested on others."""
    rows = np.empty(0, np.int64)
    episode = replace(
        names_episode(NamesOnly("test", NAMES, ("a", "b"), (TEMPLATE,))),
        train_classes=(0, 1),
        tests=(TestSet("all", rows, (0, 1)), TestSet("other", rows, classes)),
    )
    method = CoOp(CoOp.Config(**options))
    method.setup(backbone(), episode, (TEMPLATE,))
    return method


def test_default_context_is_a_photo_of_a_if_new_classes_are_tested() -> None:
    new = coop_tested_on((2, 3))
    words = embed_phrase(new.backbone, "a photo of a")
    torch.testing.assert_close(new.context.detach(), words)
    assert new.resolved() == {"context_tokens": 4, "context_init": "a photo of a"}
    assert coop_tested_on((0, 1)).resolved() == {"context_tokens": 16, "context_init": ""}
    assert coop_tested_on((2, 3), context_init="").resolved() == {"context_tokens": 16}
    assert coop_tested_on((2, 3), context_tokens=5).resolved()["context_init"] == ""
    assert coop_tested_on((2, 3), class_specific=True).resolved()["context_init"] == ""


def test_stored_context_of_a_default_run_sets_the_number_of_vectors() -> None:
    trained = coop_tested_on((2, 3))
    randomise(trained)
    opened = ready(CoOp)  # as a stored run is opened: without test sets, hence with 16 vectors
    opened.load_state_dict({k: v.clone() for k, v in trained.state_dict().items()})
    images = batch_of().images
    torch.testing.assert_close(opened.classifier(UNSEEN)(images), trained.classifier(UNSEEN)(images))
    with pytest.raises(UserError, match="do not fit"):
        ready(CoOp, context_tokens=5).load_state_dict(trained.state_dict())


def test_only_context_is_trained() -> None:
    method = ready(CoOp, context_tokens=2)
    check_trained(method)
    assert [p.shape for p in method.parameters()] == [(2, 24)]


def test_class_specific_context_follows_names_and_rejects_new_ones() -> None:
    method = ready(CoOp, context_tokens=3, class_specific=True)
    randomise(method)
    images = batch_of().images
    whole = method.classifier(NAMES)(images)
    torch.testing.assert_close(method.classifier(("Ice", "dog"))(images), whole[:, [3, 1]])
    with pytest.raises(UnseenClasses, match='there is none for "very old wooden boat" and 1 more'):
        method.classifier(UNSEEN)


def test_loaded_context_replaces_the_initial_one() -> None:
    method = ready(CoOp, context_tokens=3)
    randomise(method)
    other = ready(CoOp, context_tokens=3)
    other.load_state_dict({k: v.clone() for k, v in method.state_dict().items()})
    images = batch_of().images
    assert torch.equal(method.classifier(UNSEEN)(images), other.classifier(UNSEEN)(images))


def test_new_class_name_too_long_for_the_window_raises() -> None:
    method = ready(CoOp, context_tokens=15)
    with pytest.raises(UserError, match="very old wooden"):
        method.classifier(("dog", "very old wooden sailing boat at sea"))
