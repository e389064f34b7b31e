"""All tensors in one safetensors file, under open_clip's names; those of the method start with "method."."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from ...backbone import load
from ...backbone.positions import stretch_positions
from ...core.checkpoint import save_weights
from ...methods.base import PREFIX
from .base import ExportedModel, ExportFormat, Features, Probe, model_config

WEIGHTS = "model.safetensors"


class Safetensors(ExportFormat):
    """Every tensor that predictions need, and the architecture it belongs to."""

    library = "safetensors"
    summary = "every tensor by name"
    all_tensors = True

    def write(self, model: ExportedModel, folder: Path) -> None:
        save_weights(folder / WEIGHTS, model.state)
        architecture = {
            "backbone": model.backbone.spec,
            "model_cfg": model_config(model),
            "context_length": model.backbone.context_length,
            "preprocess": {
                "size": list(model.preprocess.size),
                "mean": list(model.preprocess.mean),
                "std": list(model.preprocess.std),
                "interpolation": model.preprocess.interpolation,
                "resize": model.preprocess.resize,
            },
        }
        text = json.dumps(architecture, indent=1) + "\n"
        (folder / "architecture.json").write_text(text, encoding="utf-8")

    @torch.no_grad()
    def read(self, folder: Path, probe: Probe) -> Features:
        """Load the tower's tensors, with strict names, into a new model of the same architecture."""
        architecture = json.loads((folder / "architecture.json").read_text(encoding="utf-8"))
        backbone = load(architecture["backbone"], pretrained=False)
        if backbone.context_length != architecture["context_length"]:
            stretch_positions(backbone, architecture["context_length"])
        state = load_file(folder / WEIGHTS)
        towers = {name: value.float() for name, value in state.items() if not name.startswith(PREFIX)}
        backbone.model.load_state_dict(towers, strict=True)
        return probe.features(backbone)

    def usage(self, folder: Path) -> str:
        return f'from safetensors.torch import load_file\nstate = load_file("{folder}/{WEIGHTS}")'
