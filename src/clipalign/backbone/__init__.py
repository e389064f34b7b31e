"""CLIP-like models: loading, features, dense maps, hooks. Knows nothing of data, runs or methods."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .dense import DenseFeatures
    from .fingerprint import text_fingerprint
    from .loading import list_backbones, load
    from .model import Backbone
    from .positions import stretch_positions
    from .preprocessing import preprocess_for
    from .text.tokens import Tokens

__all__ = [
    "Backbone",
    "DenseFeatures",
    "Tokens",
    "list_backbones",
    "load",
    "preprocess_for",
    "stretch_positions",
    "text_fingerprint",
]

# Public name -> module. Looked up on first use: open_clip takes seconds to import, and `train --help` needs no tower.
_HOMES = {
    "Backbone": "model",
    "DenseFeatures": "dense",
    "Tokens": "text.tokens",
    "list_backbones": "loading",
    "load": "loading",
    "preprocess_for": "preprocessing",
    "stretch_positions": "positions",
    "text_fingerprint": "fingerprint",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value
