"""CoCoOp against the published form: whole windows, one image and one class at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from clipalign.core.errors import UserError
from clipalign.methods.cocoop import CoCoOp
from clipalign.methods.coop import CoOp
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
    window_with,
)


def literal(method: Any, images: Tensor, names: Sequence[str]) -> Tensor:
    tower, rows = method.backbone, []
    first, second = method.meta_net[0], method.meta_net[2]
    for image in encode_images(tower, images):
        pi = second.weight @ (first.weight @ image + first.bias).clamp_min(0) + second.bias
        logits = []
        for name in prompt_names(names):
            text = encode_window(tower, *window_with(tower, method.context + pi, name))
            logits.append(tower.logit_scale * image @ text)
        rows.append(torch.stack(logits))
    return torch.stack(rows)


@pytest.mark.parametrize("prompts_at_once", [1, 9, 4096])
def test_batched_and_chunked_is_one_image_at_a_time(prompts_at_once: int) -> None:
    method = ready(CoCoOp, prompts_at_once=prompts_at_once)
    randomise(method)
    batch = batch_of(5)
    logits = literal(method, batch.images, NAMES)
    known = F.cross_entropy(logits, batch.labels)
    check_loss(method, batch, known)
    for names in (NAMES, UNSEEN):
        with torch.no_grad():
            got = method.classifier(names)(batch.images)
        torch.testing.assert_close(got, literal(method, batch.images, names))
    # The images really have prompts of their own.
    assert not torch.allclose(method.classifier(NAMES)(batch.images[:1]), logits[1:2], atol=1e-2)


def test_chunks_bound_what_runs_together() -> None:
    method = ready(CoCoOp, prompts_at_once=9)
    sizes: list[int] = []
    inner = method.backbone.encode_with_prefix

    def spy(prefix: Tensor, rest: Tensor, ends: Tensor) -> Tensor:
        sizes.append(len(prefix) * len(rest))
        return inner(prefix, rest, ends)

    method.backbone.encode_with_prefix = spy
    with torch.no_grad():
        method.classifier(NAMES)(batch_of(5).images)
    assert sizes == [8, 8, 4]


def test_without_its_network_it_is_coop() -> None:
    method, tower = ready(CoCoOp), backbone()
    with torch.no_grad():
        for parameter in method.meta_net[2].parameters():
            parameter.zero_()
    coop = ready(CoOp, tower, context_init="a photo of a")
    batch = batch_of()
    torch.testing.assert_close(method.loss(batch)["loss_ce"], coop.loss(batch)["loss_ce"])
    got = method.classifier(UNSEEN)(batch.images)
    torch.testing.assert_close(got, coop.classifier(UNSEEN)(batch.images))


def test_context_and_network_are_trained_in_their_published_shapes() -> None:
    method = ready(CoCoOp)
    check_trained(method)
    # d = 16, W = 24: context 4 x 24, hidden 16 / 16 = 1. With 512 and 512 the same shapes hold 35 360 numbers.
    shapes = {name: tuple(p.shape) for name, p in method.extra.named_parameters()}
    assert shapes == {
        "prompts.context": (4, 24),
        "meta_net.0.weight": (1, 16),
        "meta_net.0.bias": (1,),
        "meta_net.2.weight": (24, 1),
        "meta_net.2.bias": (24,),
    }
    assert method.resolved() == {"context_tokens": 4, "meta_net_units": 1}
    assert ready(CoCoOp, context_init="", meta_net_reduction=4).resolved() == {
        "context_tokens": 4,
        "meta_net_units": 4,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts_at_once": 0}, "--prompts-at-once"),
        ({"meta_net_reduction": 0}, "--meta-net-reduction"),
        ({"context_tokens": 21, "context_init": ""}, "--context-tokens 21: the prompt of"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ready(CoCoOp, **options)
