"""CLIP-like models: loading, features, dense maps, hooks. Knows nothing of data, runs or methods."""

from __future__ import annotations

from .dense import Dense
from .identity import text_identity
from .loading import list_backbones, load
from .model import Backbone
from .positions import stretch_positions
from .tokens import Tokens

__all__ = ["Backbone", "Dense", "Tokens", "list_backbones", "load", "stretch_positions", "text_identity"]
