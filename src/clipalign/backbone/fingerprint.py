"""Whether the text tower is still what it was: the key under which its features may be kept."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .model import Backbone


def text_fingerprint(backbone: Backbone) -> str | None:
    """SHA-256 of the text tower's tensors; None while any of them is trained, or hooks change the blocks.

    The digest is taken once, and again when PyTorch's version counters say that a tensor was written to. They do
    not see writes through `tensor.data`, which a method must not do to a tower that it does not train.
    """
    if backbone._hooks.text is not None or backbone._hooks.tap is not None:
        return None
    tensors = text_tensors(backbone)
    if any(tensor.requires_grad for tensor in tensors.values()):
        return None
    state = tuple((tensor.data_ptr(), tensor._version) for tensor in tensors.values())
    if backbone._text_digest is None or backbone._text_digest[0] != state:
        digest = hashlib.sha256(f"{backbone.spec}\n{backbone.device}".encode())
        for name, tensor in tensors.items():
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        backbone._text_digest = (state, digest.hexdigest())
    return backbone._text_digest[1]


def text_tensors(backbone: Backbone) -> dict[str, Tensor]:
    """Every tensor that a text feature depends on, by open_clip's names."""
    tensors = dict(backbone.model.named_parameters()) | dict(backbone.model.named_buffers())
    return {
        name: tensor
        for name, tensor in tensors.items()
        if not name.startswith("visual.") and name not in ("logit_scale", "logit_bias")
    }
