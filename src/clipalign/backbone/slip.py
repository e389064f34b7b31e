"""SLIP's and DeCLIP's checkpoints as open_clip models: their architectures, and their names of tensors.

Two repositories published such checkpoints, and each has one layout for all its methods:

- facebookresearch/SLIP (SLIP and its CLIP baselines, ViT-S/16, B/16, L/16): the vision tower is timm's ViT, with exact
  GELU, LayerNorm eps 1e-6, a bias in the patch convolution and no LayerNorm before the blocks; the text tower is
  CLIP's, with QuickGELU.
- Sense-GVT/DeCLIP (DeCLIP, and its SLIP and CLIP baselines, ViT-B/32): both towers are CLIP's, with QuickGELU. The text
  projection has a bias, and the vocabulary a mask token before the start token, which evaluation never uses.

Images are normalised with ImageNet's mean and standard deviation, and resized bilinearly, in both.

open_clip has one activation per model, so `open_clip.create_model("SLIP-ViT-B-16")` builds a vision tower with
QuickGELU; `load` replaces it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

# Architectures as open_clip's configuration files.
FOLDER = Path(__file__).resolve().parents[1] / "assets" / "slip"
NAMES = tuple(sorted(file.stem for file in FOLDER.glob("*.json")))
# timm's ViT: exact GELU in the vision tower.
EXACT_GELU = frozenset({"SLIP-ViT-S-16", "SLIP-ViT-B-16", "SLIP-ViT-L-16"})
PREPROCESS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "interpolation": "bilinear"}

# timm -> open_clip
_VISION = {
    "visual.norm.weight": "visual.ln_post.weight",
    "visual.norm.bias": "visual.ln_post.bias",
    "visual.patch_embed.proj.weight": "visual.conv1.weight",
    "image_projection": "visual.proj",
}
_BLOCK = {
    "norm1": "ln_1",
    "norm2": "ln_2",
    "attn.qkv.weight": "attn.in_proj_weight",
    "attn.qkv.bias": "attn.in_proj_bias",
    "attn.proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
_TEXT_PREFIXES = ("encode_text.", "text_encoder.")  # of DeCLIP, and of its SLIP baseline
# Heads of the self-supervised losses.
_HEADS = ("image_mlp.", "projector", "predictor", "text_label_predictor.", "nn_replacer_")
_CLIP_VOCABULARY = 49408
_MASK_TOKEN = 49406  # DeCLIP's; CLIP's start and end token follow


def register() -> None:
    """Add the architectures to open_clip."""
    if not set(NAMES) <= set(open_clip.list_models()):
        open_clip.add_model_config(FOLDER)


def preprocess(architecture: str) -> dict[str, Any]:
    """Return the published preprocessing of an architecture; empty if it is not one of this module."""
    return dict(PREPROCESS) if architecture in NAMES else {}


def restore_activation(model: Any, architecture: str) -> None:
    """Replace QuickGELU in the vision tower by exact GELU if the architecture was published with it."""
    if architecture in EXACT_GELU:
        for block in model.visual.transformer.resblocks:
            block.mlp.gelu = nn.GELU()


def to_open_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert a state dict of one of the two repositories to open_clip's names; others are returned unchanged.

    The heads of the self-supervised losses are dropped. Names that are in neither layout are kept, so that
    `load_weights` reports them.
    """
    if "visual.cls_token" in state:
        return _from_slip(state)
    if any(name.startswith(_TEXT_PREFIXES) for name in state):
        return _from_declip(state)
    return dict(state)


def _from_slip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the layout of facebookresearch/SLIP."""
    converted = {_slip_name(name): value for name, value in state.items() if not name.startswith(_HEADS)}
    converted["visual.class_embedding"] = converted.pop("visual.cls_token").flatten()  # [1, 1, W] -> [W]
    positions = converted.pop("visual.pos_embed").squeeze(0).clone()  # [1, 1 + M, W] -> [1 + M, W]
    bias = converted.pop("visual.patch_embed.proj.bias", None)  # [W]
    if bias is not None:
        # open_clip's patch convolution has no bias. Every patch, but not the class token, receives it before its
        # position, so both add up to one vector.
        positions[1:] += bias
    converted["visual.positional_embedding"] = positions
    return converted


def _slip_name(name: str) -> str:
    """Return open_clip's name of a tensor of facebookresearch/SLIP."""
    prefix = "visual.blocks."
    if not name.startswith(prefix):
        return _VISION.get(name, name)
    number, _, rest = name.removeprefix(prefix).partition(".")
    for theirs, ours in _BLOCK.items():
        if rest == theirs or rest.startswith(f"{theirs}."):
            return f"visual.transformer.resblocks.{number}.{ours}{rest.removeprefix(theirs)}"
    return name


def _from_declip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the layout of Sense-GVT/DeCLIP."""
    converted = {}
    for name, value in state.items():
        prefix = next((p for p in _TEXT_PREFIXES if name.startswith(p)), "")
        if not name.startswith(_HEADS):
            converted[name.removeprefix(prefix)] = value
    tokens = converted.get("token_embedding.weight")  # [V, W]
    if tokens is not None and len(tokens) == _CLIP_VOCABULARY + 1:
        converted["token_embedding.weight"] = torch.cat([tokens[:_MASK_TOKEN], tokens[_MASK_TOKEN + 1 :]])
    return converted
