"""A folder for open_clip: `open_clip.create_model("local-dir:FOLDER")`."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import torch

from ...core.checkpoint import save_weights
from .base import ExportedModel, ExportFormat, Features, Probe, model_config

WEIGHTS = "open_clip_model.safetensors"


class OpenClip(ExportFormat):
    """Weights and open_clip_config.json, and the files of the tokenizer if it is not CLIP's."""

    library = "open_clip"
    summary = "checkpoint and configuration"

    def write(self, model: ExportedModel, folder: Path) -> None:
        backbone, preprocess = model.backbone, model.preprocess
        if (hf_tokenizer := getattr(backbone.tokenizer, "tokenizer", None)) is not None:
            hf_tokenizer.save_pretrained(folder)
        config = {
            "model_cfg": model_config(model),
            "preprocess_cfg": {
                "mean": list(preprocess.mean),
                "std": list(preprocess.std),
                "interpolation": preprocess.interpolation,
                "resize_mode": preprocess.resize,
            },
        }
        text = json.dumps(config, indent=1) + "\n"
        (folder / "open_clip_config.json").write_text(text, encoding="utf-8")
        save_weights(folder / WEIGHTS, backbone.model.state_dict())

    @torch.no_grad()
    def read(self, folder: Path, probe: Probe) -> Features:
        name = f"local-dir:{folder}"
        model = open_clip.create_model(name).eval()
        tokens = open_clip.get_tokenizer(name)(list(probe.texts))
        return Features.of(model.encode_image(probe.images), model.encode_text(tokens))

    def usage(self, folder: Path) -> str:
        return (
            "import open_clip\n"
            f'model, _, preprocess = open_clip.create_model_and_transforms("local-dir:{folder}")\n'
            f'tokenizer = open_clip.get_tokenizer("local-dir:{folder}")'
        )
