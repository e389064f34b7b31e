"""Plain tensors: every one that predictions need, under open_clip's names, the method's own after "method."."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from ...backbone import load
from ...backbone.positions import stretch_positions
from ...core.checkpoint import save_weights
from ...methods.base import EXTRA
from .model import Exported, Features, Probe, model_config

LIBRARY = "safetensors"
WEIGHTS = "model.safetensors"


def write(model: Exported, folder: Path) -> None:
    """Write the tensors, and the architecture they belong to."""
    save_weights(folder / WEIGHTS, model.state)
    facts = {
        "backbone": model.backbone.spec,
        "model_cfg": model_config(model),
        "context_length": model.backbone.context_length,
        "preprocess": {
            "size": list(model.preprocess.size),
            "mean": list(model.preprocess.mean),
            "std": list(model.preprocess.std),
            "interpolation": model.preprocess.interpolation,
        },
    }
    (folder / "architecture.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


@torch.no_grad()
def read(folder: Path, probe: Probe) -> Features:
    """Features of a fresh model of the same architecture with the file's tensors, all of them and no others."""
    facts = json.loads((folder / "architecture.json").read_text(encoding="utf-8"))
    backbone = load(facts["backbone"], pretrained=False)
    if backbone.context_length != facts["context_length"]:
        stretch_positions(backbone, facts["context_length"])
    state = load_file(folder / WEIGHTS)
    towers = {name: value.float() for name, value in state.items() if not name.startswith(EXTRA)}
    backbone.model.load_state_dict(towers, strict=True)
    return probe.ask(backbone)


def usage(folder: Path) -> str:
    """How to load it."""
    return f'from safetensors.torch import load_file\nstate = load_file("{folder}/{WEIGHTS}")'
