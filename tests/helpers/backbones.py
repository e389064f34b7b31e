"""Builder of tiny open_clip models."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file

from clipalign.backbone import Backbone
from clipalign.backbone.build import clip_tokenizer

# Defaults of the two towers: a ViT of 3 blocks and a causal text tower with CLIP's window and vocabulary.
VISION = {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 3}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 24, "heads": 2, "layers": 1}
RESNET = {"image_size": 64, "layers": (1, 1, 1, 1), "width": 8}


def build_clip(
    vision: Mapping[str, Any] | None = None,
    text: Mapping[str, Any] | None = None,
    *,
    embed_dim: int = 24,
    custom_text: bool = False,
    noise: float = 0.0,
    seed: int = 0,
    **options: Any,
) -> Any:
    """Return a tiny open_clip model with seeded random weights, in evaluation mode.

    Args:
        vision: changes to `VISION`; with a tuple of layers (`RESNET`), a ModifiedResNet.
        text: changes to `TEXT`.
        embed_dim: size of the joint space.
        custom_text: build a `CustomTextCLIP`, whose text tower is a separate module.
        noise: standard deviation of noise added to every parameter but scalars. Without it biases are 0 and
            gains are 1, and code that forgets one would pass.
        seed: of weights and noise; the global random state is unchanged.
        options: further arguments of the open_clip class (quick_gelu, ...).
    """
    model_class = open_clip.CustomTextCLIP if custom_text else open_clip.CLIP
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vision_cfg = open_clip.CLIPVisionCfg(**{**VISION, **(vision or {})})
        text_cfg = open_clip.CLIPTextCfg(**{**TEXT, **(text or {})})
        model = model_class(embed_dim, vision_cfg, text_cfg, **options)
        if noise:
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.dim():
                        parameter.add_(noise * torch.randn_like(parameter))
    open_clip.set_model_preprocess_cfg(model, {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)})
    return model.eval()


def wrap(model: Any) -> Backbone:
    """Wrap an open_clip model with CLIP's tokenizer at the model's context length."""
    return Backbone(model, clip_tokenizer(model.context_length), "tiny")


def copied(backbone: Backbone) -> Backbone:
    """Return a deep copy, except for the merge table of CLIP's tokenizer, which takes long to copy."""
    return copy.deepcopy(backbone, {id(backbone.tokenizer): copy.copy(backbone.tokenizer)})


def write_backbone(
    folder: Path,
    *,
    vision: Mapping[str, Any] | None = None,
    text: Mapping[str, Any] | None = None,
    embed_dim: int = 24,
    custom_text: bool = False,
) -> str:
    """Write a tiny model as a folder and return its `--backbone local-dir:...`; arguments as `build_clip`."""
    model = build_clip(vision, text, embed_dim=embed_dim, custom_text=custom_text, seed=1)
    config = {
        "embed_dim": embed_dim,
        "vision_cfg": {**VISION, **(vision or {})},
        "text_cfg": {**TEXT, **(text or {})},
        "custom_text": custom_text,
    }
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    state = {name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"
