"""PromptSRC: forward pass and each term of its loss, spelt out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from clipalign.core.errors import UserError
from clipalign.methods.promptsrc import TEMPLATES, PromptSrc
from tests.helpers.methods import total_loss
from tests.helpers.prompts import (
    NAMES,
    UNSEEN,
    batch_of,
    check_loss,
    check_trained,
    embed_text,
    encode_images,
    encode_window,
    prompt_names,
    randomise,
    ready,
    window_with,
)


def prompted(method: Any, images: Tensor, names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Unit features of images and classes."""
    tower, p, v = method.backbone, method.text_vectors, method.vision_vectors

    def in_text(block: int, x: Tensor) -> Tensor:
        return torch.cat([x[:, :1], p[block][None], x[:, 5:]], 1) if 0 < block < len(p) else x

    def in_vision(block: int, x: Tensor) -> Tensor:
        return torch.cat([x[:, :-4], v[block][None]], 1) if 0 < block < len(v) else x

    features = []
    for name in prompt_names(names):
        features.append(encode_window(tower, *window_with(tower, p[0], name), in_text))
    return encode_images(tower, images, v[0], in_vision), torch.stack(features)


def references(method: Any, templates: Sequence[str]) -> Tensor:
    """T0: means of un-normalised features, normalised."""
    rows = []
    for name in prompt_names(NAMES):
        tokens = method.backbone.tokenizer([t.replace("{}", name) for t in templates])
        rows.append(F.normalize(method.backbone.model.encode_text(tokens).mean(0), dim=0))
    return torch.stack(rows)


def literal_terms(method: Any, batch: Any, templates: Sequence[str] = TEMPLATES) -> dict[str, Tensor]:
    scale = method.backbone.logit_scale
    image, text = prompted(method, batch.images, NAMES)
    image0, text0 = encode_images(method.backbone, batch.images), references(method, templates)
    p0, p = (scale * image0 @ text0.T).softmax(1), (scale * image @ text.T).softmax(1)
    return {
        "loss_ce": -p[range(len(batch)), batch.labels].log().mean(),
        "loss_text": 25 * (text - text0).abs().sum() / text.numel(),
        "loss_image": 10 * (image - image0).abs().sum() / image.numel(),
        "loss_logits": (p0 * (p0 / p).log()).sum() / p.numel(),
    }


@pytest.mark.parametrize("depths", [(1, 1), (2, 3), (3, 4)])
def test_every_term_and_the_gradient_are_the_published_ones(depths: tuple[int, int]) -> None:
    method = ready(PromptSrc, text_depth=depths[0], vision_depth=depths[1])
    randomise(method)
    batch = batch_of()
    known = literal_terms(method, batch)
    torch.testing.assert_close(method.loss(batch), known)
    check_loss(method, batch, total_loss(known))
    for names in (NAMES, UNSEEN):
        image, text = prompted(method, batch.images, names)
        got = method.classifier(names)(batch.images)
        torch.testing.assert_close(got, method.backbone.logit_scale * image @ text.T)


def test_weights_and_templates_are_options() -> None:
    templates = ("a {}.", "one {}.")
    options = {"text_weight": 5.0, "image_weight": 2.0, "logit_weight": 3.0}
    method = ready(PromptSrc, **options, reference_templates=templates)
    batch = batch_of()
    terms, known = method.loss(batch), literal_terms(method, batch, templates)
    for name, factor in (("loss_text", 5 / 25), ("loss_image", 2 / 10), ("loss_logits", 3.0)):
        torch.testing.assert_close(terms[name], factor * known[name])


def test_regularisers_vanish_where_prompts_change_nothing() -> None:
    """Text vectors that are the words of the only reference template; depth 1."""
    method = ready(PromptSrc, text_depth=1, vision_depth=1, reference_templates=("a photo of a {}.",))
    assert float(method.loss(batch_of())["loss_text"].detach()) == pytest.approx(0, abs=1e-5)


def test_sixty_different_templates_with_one_place() -> None:
    assert len(set(TEMPLATES)) == 60 and all(t.count("{}") == 1 for t in TEMPLATES)


def test_prompts_of_both_towers_are_trained_at_three_quarters_of_the_blocks() -> None:
    method = ready(PromptSrc)
    assert method.average == "gaussian"
    assert method.resolved() == {"text_depth": 2, "vision_depth": 3, "reference_templates": 60}
    check_trained(method)
    assert [p.shape for p in method.parameters()] == [(2, 4, 24), (3, 4, 32)]
    assert all(bool(p.grad.any()) for p in method.parameters())
    words = embed_text(method.backbone, "a photo of a")[0, 1:5]
    assert torch.equal(method.text_vectors[0], words)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text_depth": 4}, "--text-depth 4: this backbone allows 1 to 3"),
        ({"vision_depth": 5}, "--vision-depth 5: this backbone allows 1 to 4"),
        ({"vision_tokens": 0}, "--vision-tokens"),
        ({"text_weight": -1.0}, "--text-weight"),
        ({"context_tokens": 21}, "--context-tokens 21: the prompt of"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ready(PromptSrc, **options)
