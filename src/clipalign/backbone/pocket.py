"""The small CLIP shipped with the package: its open_clip architecture, preprocessing and weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip

ARCHITECTURE = "clipalign-pocket"
FOLDER = Path(__file__).resolve().parents[1] / "assets" / "pocket"
WEIGHTS = FOLDER / "model.safetensors"
POCKET_NOTE = (
    "note: the pocket backbone knows drawings of everyday objects only; for photos choose another backbone, such as "
    "ViT-B-16:openai (`clipalign list backbones`)"
)


def register() -> None:
    """Add the architecture to open_clip, so that `open_clip.create_model("clipalign-pocket")` works.

    open_clip names an architecture after the stem of its file and passes every key of the file to the model, so the
    architecture has a file beside `config.json`, which has other keys as well.
    """
    if ARCHITECTURE not in open_clip.list_models():
        open_clip.add_model_config(FOLDER / f"{ARCHITECTURE}.json")


def config() -> dict[str, Any]:
    """Return `config.json`: preprocessing, and the facts of the model card."""
    return json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))
