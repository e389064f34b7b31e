"""Towers for tests of prompt learners, and their forward passes spelt out: whole windows, one prompt at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import open_clip
import torch
from torch import Tensor
from torch.nn import functional as F

from clipalign.backbone import Backbone
from clipalign.core.types import Batch
from clipalign.methods.base import Method
from clipalign.protocols.names_only import NamesOnly, names_episode

WINDOW = 24
NAMES = ("red apple", "dog", "grand_piano", "ice")
UNSEEN = ("very old wooden boat", "kite", "dog")  # of so different lengths that they run apart
TEMPLATE = "a photo of a {}."

Overwrite = Callable[[int, Tensor], Tensor]


TOKENIZER = open_clip.SimpleTokenizer(context_length=WINDOW)


@cache
def _model(text_layers: int, vision_layers: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vision = open_clip.CLIPVisionCfg(
            image_size=32, patch_size=8, layers=vision_layers, width=32, head_width=16
        )
        text = open_clip.CLIPTextCfg(
            context_length=WINDOW, vocab_size=49408, width=24, heads=2, layers=text_layers
        )
        model = open_clip.CLIP(16, vision, text)
        with torch.no_grad():
            # Every parameter random: a forgotten bias or gain would show. Words large enough to matter.
            for parameter in model.parameters():
                if parameter.dim():
                    parameter.add_(0.1 * torch.randn_like(parameter))
            model.token_embedding.weight.mul_(4)
    open_clip.set_model_preprocess_cfg(model, {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)})
    return model.eval()


def backbone(text_layers: int = 3, vision_layers: int = 4) -> Backbone:
    """A fresh ViT with d = 16, widths 32 and 24."""
    # A tokenizer of its own too: methods that stretch the text window set its length.
    return Backbone(copy.deepcopy(_model(text_layers, vision_layers)), copy.copy(TOKENIZER), "tiny")


def ready(cls: type[Method], tower: Backbone | None = None, **options: Any) -> Any:
    """A method set up on `NAMES`, its random start seeded."""
    method = cls(cls.Config(**options))
    torch.manual_seed(0)
    method.setup(
        tower or backbone(), names_episode(NamesOnly("test", NAMES, ("a", "b"), (TEMPLATE,))), (TEMPLATE,)
    )
    return method


def randomise(method: Any) -> None:
    """Move every trained tensor away from its start."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


def batch_of(size: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(3)
    return Batch(
        torch.randn(size, 3, 32, 32, generator=generator),
        torch.arange(size) % len(NAMES),
        (torch.arange(size) % 3 == 0).long(),
        torch.arange(size),
    )


def spoken(names: Sequence[str]) -> list[str]:
    return [name.replace("_", " ") for name in names]


def ids(tower: Backbone, text: str) -> Tensor:
    """[1, WINDOW]"""
    return tower.tokenizer([text])


def embedded(tower: Backbone, text: str) -> Tensor:
    """[1, WINDOW, W]"""
    return tower.model.token_embedding(ids(tower, text))


def window(tower: Backbone, text: str) -> tuple[Tensor, int]:
    """A text embedded [1, WINDOW, W], and where it ends."""
    return embedded(tower, text), int(ids(tower, text).argmax())


def window_with(tower: Backbone, vectors: Tensor, name: str) -> tuple[Tensor, int]:
    """ "X ... X name." embedded [1, WINDOW, W], its X's replaced by vectors [m, W], and where it ends."""
    x, end = window(tower, " ".join(["X"] * len(vectors)) + f" {name}.")
    return torch.cat([x[:, :1], vectors[None], x[:, 1 + len(vectors) :]], dim=1), end


def nothing(block: int, tokens: Tensor) -> Tensor:
    return tokens


def encode_window(tower: Backbone, x: Tensor, end: int, overwrite: Overwrite = nothing) -> Tensor:
    """One prompt of WINDOW rows, padding and all, to its unit feature [d]."""
    model = tower.model
    x = x + model.positional_embedding
    for i, block in enumerate(model.transformer.resblocks):
        x = block(overwrite(i, x), attn_mask=model.attn_mask)
    return F.normalize(model.ln_final(x)[0, end] @ model.text_projection, dim=-1)


def encode_images(
    tower: Backbone, images: Tensor, first: Tensor | None = None, overwrite: Overwrite = nothing
) -> Tensor:
    """Images one by one, with `first` appended before the first LayerNorm, to unit features [B, d]."""
    visual, rows = tower.model.visual, []
    for image in images:
        x = visual.conv1(image[None]).flatten(2).transpose(1, 2)
        x = torch.cat([visual.class_embedding[None, None], x], 1) + visual.positional_embedding
        if first is not None:
            x = torch.cat([x, first[None]], dim=1)
        x = visual.ln_pre(x)
        for i, block in enumerate(visual.transformer.resblocks):
            x = block(overwrite(i, x))
        rows.append(F.normalize(visual.ln_post(x[0, 0]) @ visual.proj, dim=-1))
    return torch.stack(rows)


def zeroshot_logits(tower: Backbone, images: Tensor, names: Sequence[str]) -> Tensor:
    rows = []
    for name in spoken(names):
        rows.append(encode_window(tower, *window(tower, TEMPLATE.replace("{}", name))))
    return tower.logit_scale * encode_images(tower, images) @ torch.stack(rows).T


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack([value for name, value in terms.items() if name.startswith("loss")]).sum()


def check_loss(method: Any, batch: Batch, known: Tensor) -> None:
    """The loss is the known one, and so is its gradient by everything that is trained."""
    loss = total(method.loss(batch))
    torch.testing.assert_close(loss, known)
    mine, theirs = (torch.autograd.grad(value, method.parameters()) for value in (loss, known))
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


def check_trained(method: Any) -> None:
    """A gradient reaches everything that is trained, and nothing of the towers."""
    total(method.loss(batch_of())).backward()
    assert all(p.grad is not None for p in method.parameters())
    assert all(p.grad is None for p in method.backbone.parameters())
