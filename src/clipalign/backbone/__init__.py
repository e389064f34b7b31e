"""CLIP-like models: loading, features, dense maps and hooks. Independent of data, runs and methods."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .dense import DenseFeatures
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
]

# Public name -> module, imported on first use: open_clip takes seconds to import, and `train --help` does not need it.
_MODULES = {
    "Backbone": "model",
    "DenseFeatures": "dense",
    "Tokens": "text.tokens",
    "list_backbones": "loading",
    "load": "loading",
    "preprocess_for": "preprocessing",
    "stretch_positions": "positions",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value
    return value
