"""An open_clip folder: `open_clip.create_model("local-dir:FOLDER")`."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import torch

from ...core.checkpoint import save_weights
from .model import Exported, Features, Probe, model_config

LIBRARY = "open_clip"
WEIGHTS = "open_clip_model.safetensors"


def write(model: Exported, folder: Path) -> None:
    """Write weights and open_clip_config.json, and the tokenizer's files where it is not CLIP's own."""
    backbone, preprocess = model.backbone, model.preprocess
    if (inner := getattr(backbone.tokenizer, "tokenizer", None)) is not None:
        inner.save_pretrained(folder)
    facts = {
        "model_cfg": model_config(model),
        "preprocess_cfg": {
            "mean": list(preprocess.mean),
            "std": list(preprocess.std),
            "interpolation": preprocess.interpolation,
            "resize_mode": "shortest",
        },
    }
    text = json.dumps(facts, indent=1) + "\n"
    (folder / "open_clip_config.json").write_text(text, encoding="utf-8")
    save_weights(folder / WEIGHTS, backbone.model.state_dict())


@torch.no_grad()
def read(folder: Path, probe: Probe) -> Features:
    """Features as open_clip computes them from the folder."""
    name = f"local-dir:{folder}"
    model = open_clip.create_model(name).eval()
    tokens = open_clip.get_tokenizer(name)(list(probe.texts))
    return Features.of(model.encode_image(probe.images), model.encode_text(tokens))


def usage(folder: Path) -> str:
    """How to load it."""
    return (
        "import open_clip\n"
        f'model, _, preprocess = open_clip.create_model_and_transforms("local-dir:{folder}")\n'
        f'tokenizer = open_clip.get_tokenizer("local-dir:{folder}")'
    )
