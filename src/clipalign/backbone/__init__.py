"""CLIP-like models: loading, features, dense maps, hooks."""

from __future__ import annotations

from .loading import load
from .model import Backbone

__all__ = ["Backbone", "load"]
