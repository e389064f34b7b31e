"""Fingerprint of the weights of a text tower, under which its features can be cached."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from torch import Tensor

from ..core.weights import state_digest

if TYPE_CHECKING:
    from .model import Backbone


def text_fingerprint(backbone: Backbone) -> str | None:
    """Return the SHA-256 of the text tower's tensors; None if any is trained, or if hooks act on the text blocks.

    The digest is computed once, and again after PyTorch's version counters report a write to a tensor. They do not
    count writes through `tensor.data`, so methods must not use those on a text tower that they do not train.
    """
    if backbone._hooks.text is not None or backbone._hooks.tap is not None:
        return None
    tensors = text_tensors(backbone)
    if any(tensor.requires_grad for tensor in tensors.values()):
        return None
    state = tuple((tensor.data_ptr(), tensor._version) for tensor in tensors.values())
    if backbone._text_digest is None or backbone._text_digest[0] != state:
        facts = f"{backbone.spec}\n{backbone.device}\n{state_digest(tensors)}"
        digest = hashlib.sha256(facts.encode())
        backbone._text_digest = (state, digest.hexdigest())
    return backbone._text_digest[1]


def text_tensors(backbone: Backbone) -> dict[str, Tensor]:
    """Return every tensor on which a text feature depends, by its open_clip name."""
    tensors = dict(backbone.model.named_parameters()) | dict(backbone.model.named_buffers())
    return {
        name: tensor
        for name, tensor in tensors.items()
        if not name.startswith(("visual.", "text_decoder.")) and name not in ("logit_scale", "logit_bias")
    }
