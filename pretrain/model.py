"""The architecture that is pre-trained, and what is written of it."""

from __future__ import annotations

from pathlib import Path

import open_clip

from clipalign.backbone.loading import load
from clipalign.backbone.model import Backbone

from .config import ARCHITECTURE


def build(architecture: Path = ARCHITECTURE, seed: int = 0) -> Backbone:
    """Return a randomly initialised backbone of an open_clip architecture file."""
    if architecture.stem not in open_clip.list_models():
        open_clip.add_model_config(architecture)
    return load(f"{architecture.stem}:random", seed=seed)
