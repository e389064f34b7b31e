"""Prompt learners on tiny towers, and reference forward passes: whole text windows, one prompt at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from clipalign.backbone import Backbone
from clipalign.core.types import Batch
from clipalign.methods.base import Method
from clipalign.protocols.names_only import NamesOnly, names_episode
from tests.helpers.backbones import build_clip, wrap
from tests.helpers.methods import total_loss

WINDOW = 24
NAMES = ("red apple", "dog", "grand_piano", "ice")
UNSEEN = ("very old wooden boat", "kite", "dog")  # lengths so different that they run in separate groups
TEMPLATE = "a photo of a {}."

Overwrite = Callable[[int, Tensor], Tensor]


@cache
def _model(text_layers: int, vision_layers: int) -> Any:
    text = {"context_length": WINDOW, "layers": text_layers}
    model = build_clip({"layers": vision_layers}, text, embed_dim=16, noise=0.1)
    with torch.no_grad():
        model.token_embedding.weight.mul_(4)  # else positions would outweigh the words
    return model


def backbone(text_layers: int = 3, vision_layers: int = 4) -> Backbone:
    """Return a new ViT backbone with d = 16 and token widths 32 (vision) and 24 (text)."""
    return wrap(copy.deepcopy(_model(text_layers, vision_layers)))


def ready(cls: type[Method], tower: Backbone | None = None, **options: Any) -> Any:
    """Return a method set up on `NAMES`, with the RNG seeded first."""
    method = cls(cls.Config(**options))
    torch.manual_seed(0)
    method.setup(
        tower or backbone(), names_episode(NamesOnly("test", NAMES, ("a", "b"), (TEMPLATE,))), (TEMPLATE,)
    )
    return method


def randomise(method: Any) -> None:
    """Move every trained tensor away from its initial value."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


def batch_of(size: int = 6) -> Batch:
    """Return random images with labels of `NAMES` and two domains."""
    generator = torch.Generator().manual_seed(3)
    return Batch(
        torch.randn(size, 3, 32, 32, generator=generator),
        torch.arange(size) % len(NAMES),
        (torch.arange(size) % 3 == 0).long(),
        torch.arange(size),
    )


def prompt_names(names: Sequence[str]) -> list[str]:
    """Return class names with underscores replaced by spaces."""
    return [name.replace("_", " ") for name in names]


def token_ids(tower: Backbone, text: str) -> Tensor:
    """Return the token ids of a text, [1, WINDOW]."""
    return tower.tokenizer([text])


def embed_text(tower: Backbone, text: str) -> Tensor:
    """Return the token embeddings of a text, [1, WINDOW, W]."""
    return tower.model.token_embedding(token_ids(tower, text))


def window(tower: Backbone, text: str) -> tuple[Tensor, int]:
    """Return the token embeddings [1, WINDOW, W] of a text, and the position of its end token."""
    return embed_text(tower, text), int(token_ids(tower, text).argmax())


def window_with(tower: Backbone, vectors: Tensor, name: str) -> tuple[Tensor, int]:
    """Return `window` of "X ... X name." with the embeddings of the X's replaced by vectors [m, W]."""
    x, end = window(tower, " ".join(["X"] * len(vectors)) + f" {name}.")
    return torch.cat([x[:, :1], vectors[None], x[:, 1 + len(vectors) :]], dim=1), end


def unchanged(block: int, tokens: Tensor) -> Tensor:
    """Return the tokens."""
    return tokens


def encode_window(tower: Backbone, x: Tensor, end: int, overwrite: Overwrite = unchanged) -> Tensor:
    """Return the unit-norm feature [d] of one prompt [1, WINDOW, W], padding included."""
    model = tower.model
    x = x + model.positional_embedding
    for i, block in enumerate(model.transformer.resblocks):
        x = block(overwrite(i, x), attn_mask=model.attn_mask)
    return F.normalize(model.ln_final(x)[0, end] @ model.text_projection, dim=-1)


def encode_images(
    tower: Backbone, images: Tensor, first: Tensor | None = None, overwrite: Overwrite = unchanged
) -> Tensor:
    """Return unit-norm features [B, d], image by image; `first` is appended before the first LayerNorm."""
    visual, rows = tower.model.visual, []
    for image in images:
        x = visual.conv1(image[None]).flatten(2).transpose(1, 2)  # [1, M, W]
        x = torch.cat([visual.class_embedding[None, None], x], 1) + visual.positional_embedding
        if first is not None:
            x = torch.cat([x, first[None]], dim=1)  # [1, 1 + M + n, W]
        x = visual.ln_pre(x)
        for i, block in enumerate(visual.transformer.resblocks):
            x = block(overwrite(i, x))
        rows.append(F.normalize(visual.ln_post(x[0, 0]) @ visual.proj, dim=-1))
    return torch.stack(rows)


def zeroshot_logits(tower: Backbone, images: Tensor, names: Sequence[str]) -> Tensor:
    """Return zero-shot logits [B, C] with `TEMPLATE`."""
    rows = []
    for name in prompt_names(names):
        rows.append(encode_window(tower, *window(tower, TEMPLATE.replace("{}", name))))
    return tower.logit_scale * encode_images(tower, images) @ torch.stack(rows).T


def check_loss(method: Any, batch: Batch, expected: Tensor) -> None:
    """Assert that the loss and its gradient by every trained parameter are those of `expected`."""
    loss = total_loss(method.loss(batch))
    torch.testing.assert_close(loss, expected)
    actual_gradients, expected_gradients = (
        torch.autograd.grad(value, method.parameters()) for value in (loss, expected)
    )
    torch.testing.assert_close(actual_gradients, expected_gradients, atol=1e-5, rtol=1e-4)


def check_trained(method: Any) -> None:
    """Assert that every trained parameter has a gradient, and no parameter of the towers has one."""
    total_loss(method.loss(batch_of())).backward()
    assert all(p.grad is not None for p in method.parameters())
    assert all(p.grad is None for p in method.backbone.parameters())
