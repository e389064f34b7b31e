"""Tiny open_clip models that tests load from disk."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file

from clipalign.backbone import load

TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 3},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 24, "heads": 2, "layers": 1},
}
TINY_RESNET = {**TINY, "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8}}


def write_backbone(folder: Path, config: dict) -> str:
    """Random weights and their configuration, as `--backbone local-dir:...` reads them."""
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    backbone = load(f"local-dir:{folder}", pretrained=False, seed=1)
    state = {name: tensor.contiguous().clone() for name, tensor in backbone.model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"
