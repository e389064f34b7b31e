"""Names of CLIP's tensors in transformers, by those in open_clip.

open_clip stacks query, key and value in one matrix, has projections [width, d] (transformers: weights [d, width] of
linear layers), and has embeddings as parameters (transformers: modules). All other differences are names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

START, END = "<|startoftext|>", "<|endoftext|>"  # transformers' names of open_clip's last two tokens
PREPROCESS_RESAMPLE = {"bilinear": 2, "bicubic": 3}  # PIL's numbers, in preprocessor_config.json
BLOCK = {
    "ln_1.": "layer_norm1.",
    "ln_2.": "layer_norm2.",
    "attn.out_proj.": "self_attn.out_proj.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
}
VISION = {
    "class_embedding": "vision_model.embeddings.class_embedding",
    "positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "ln_pre.weight": "vision_model.pre_layrnorm.weight",  # sic
    "ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "ln_post.weight": "vision_model.post_layernorm.weight",
    "ln_post.bias": "vision_model.post_layernorm.bias",
}
TEXT = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection.weight": "text_projection.weight",
}
# SigLIP's image tower in timm.
SIGLIP_BLOCK = {
    "norm1.": "layer_norm1.",
    "norm2.": "layer_norm2.",
    "attn.proj.": "self_attn.out_proj.",
    "mlp.fc1.": "mlp.fc1.",
    "mlp.fc2.": "mlp.fc2.",
}
SIGLIP_VISION = {
    "patch_embed.proj.": "embeddings.patch_embedding.",
    "norm.": "post_layernorm.",
    "attn_pool.proj.": "head.attention.out_proj.",
    "attn_pool.norm.": "head.layernorm.",
    "attn_pool.mlp.": "head.mlp.",
}


def clip_to_open_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the tensors of transformers' CLIPModel to open_clip's names; unknown names are kept."""
    names = {theirs: f"visual.{ours}" for ours, theirs in VISION.items()}
    names |= {theirs: ours for ours, theirs in TEXT.items() if ours != "text_projection.weight"}
    converted: dict[str, Tensor] = {}
    for name, tensor in stack_heads(state).items():
        if name == "visual_projection.weight":
            converted["visual.proj"] = tensor.T.contiguous()  # [d, W] -> [W, d]
        elif name == "text_projection.weight":
            converted["text_projection"] = tensor.T.contiguous()  # [d, W] -> [W, d]
        elif name.startswith("vision_model.encoder."):
            converted["visual." + _block(name, "vision_model", "transformer.resblocks", BLOCK)] = tensor
        elif name.startswith("text_model.encoder."):
            converted[_block(name, "text_model", "transformer.resblocks", BLOCK)] = tensor
        else:
            converted[names.get(name, name)] = tensor
    return converted


def siglip_to_open_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the tensors of transformers' SiglipModel to open_clip's names; unknown names are kept."""
    names = {theirs: f"text.{ours}" for ours, theirs in TEXT.items()}
    converted: dict[str, Tensor] = {}
    for name, tensor in stack_heads(state).items():
        if name.startswith("text_model.encoder."):
            converted["text." + _block(name, "text_model", "transformer.resblocks", BLOCK)] = tensor
        elif name.startswith("text_model.head."):
            converted[name.replace("text_model.head", "text.text_projection")] = tensor
        elif name.startswith("vision_model."):
            converted |= dict(_siglip_vision(name.removeprefix("vision_model."), tensor))
        else:
            converted[names.get(name, name)] = tensor
    return converted


def _siglip_vision(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield one tensor of SigLIP's image tower under the name or names of timm."""
    trunk = "visual.trunk."
    if name.startswith("encoder."):
        ours = _block(name, "", "blocks", SIGLIP_BLOCK)
        yield trunk + ours.replace("attn.in_proj_", "attn.qkv."), tensor
    elif name == "embeddings.position_embedding.weight":
        yield f"{trunk}pos_embed", tensor.unsqueeze(0)  # [M, W] -> [1, M, W]
    elif name == "head.probe":
        yield f"{trunk}attn_pool.latent", tensor
    elif name.startswith("head.attention.in_proj_"):
        kind, third = name.rpartition("_")[2], len(tensor) // 3
        yield f"{trunk}attn_pool.q.{kind}", tensor[:third].clone()
        yield f"{trunk}attn_pool.kv.{kind}", tensor[third:].clone()
    else:
        yield trunk + _rename(name, SIGLIP_VISION), tensor


def stack_heads(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replace the separate projections of queries, keys and values by open_clip's stacked ones.

    Position indices, which are no weights, are dropped.
    """
    stacked: dict[str, Tensor] = {}
    for name, tensor in state.items():
        before, query, kind = name.rpartition("self_attn.q_proj.")
        if query:
            parts = [state.get(f"{before}self_attn.{letter}_proj.{kind}") for letter in "qkv"]
            if all(part is not None for part in parts):
                stacked[f"{before}attn.in_proj_{kind}"] = torch.cat([p for p in parts if p is not None])
        elif not (
            ".self_attn.k_proj." in name or ".self_attn.v_proj." in name or name.endswith(".position_ids")
        ):
            stacked[name] = tensor
    return stacked


def _block(name: str, tower: str, blocks: str, names: Mapping[str, str]) -> str:
    """Return open_clip's or timm's name of a tensor of an encoder layer."""
    number, _, part = name.removeprefix(f"{tower}.").removeprefix("encoder.layers.").partition(".")
    return f"{blocks}.{number}.{_rename(part, names)}"


def _rename(name: str, names: Mapping[str, str]) -> str:
    for ours, theirs in _longest_first(names.items()):
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def _longest_first(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return sorted(pairs, key=lambda pair: -len(pair[1]))
