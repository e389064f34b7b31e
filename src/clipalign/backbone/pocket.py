"""The shipped small CLIP: its open_clip architecture, its preprocessing, its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip

ARCHITECTURE = "clipalign-pocket"
FOLDER = Path(__file__).resolve().parents[1] / "assets" / "pocket"
WEIGHTS = FOLDER / "model.safetensors"


def register() -> None:
    """Make `open_clip.create_model("clipalign-pocket")` work.

    open_clip names an architecture after the stem of its file, and builds a model from every key of it; so
    the architecture has a file of its own beside `config.json`, which holds what open_clip does not expect.
    """
    if ARCHITECTURE not in open_clip.list_models():
        open_clip.add_model_config(FOLDER / f"{ARCHITECTURE}.json")


def config() -> dict[str, Any]:
    """Preprocessing and the facts of the card."""
    return json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))
