"""A Hugging Face folder: `CLIPModel.from_pretrained(FOLDER)` and `CLIPProcessor.from_pretrained(FOLDER)`.

open_clip and transformers hold the same towers in two layouts: one stacked matrix of query, key and value
against three; projections as [width, d] against the weights [d, width] of linear layers; embeddings as bare
parameters against modules. Everything else is a matter of names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import QuickGELU
from torch import Tensor, nn

from ...backbone import Backbone
from ...backbone.text.tower import TextTower, text_tower
from ...core.errors import UserError
from .model import Exported, Features, Probe

LIBRARY = "transformers"
START, END = "<|startoftext|>", "<|endoftext|>"  # transformers' names of open_clip's two last tokens
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
    "ln_pre.weight": "vision_model.pre_layrnorm.weight",  # their spelling
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


def write(model: Exported, folder: Path) -> None:
    """Write model, image processor and tokenizer.

    Raises:
        UserError: transformers is not installed, or has no class for these towers.
    """
    hf = transformers_or_raise()
    visual, text = _check(model)
    config = hf.CLIPConfig(**hf_config(visual, text))
    target = hf.CLIPModel(config).eval()
    fill(target, hf_state(model.backbone.model.state_dict()))
    target.save_pretrained(folder)
    write_tokenizer(model.backbone.tokenizer, text.positional_embedding.shape[0], folder)
    size = model.preprocess.size[0]
    images = hf.CLIPImageProcessor(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        image_mean=list(model.preprocess.mean),
        image_std=list(model.preprocess.std),
        resample={"bilinear": 2, "bicubic": 3}[model.preprocess.interpolation],
    )
    hf.CLIPProcessor(images, hf.CLIPTokenizer.from_pretrained(folder)).save_pretrained(folder)


def fill(target: Any, state: dict[str, Tensor]) -> None:
    """Put tensors into a model of transformers.

    Raises:
        UserError: names that one of the two does not have.
    """
    expected = target.state_dict()
    # Some versions keep the position numbers, which are no weights, among the tensors.
    missing = [name for name in expected if name not in state and not name.endswith("position_ids")]
    unknown = [name for name in state if name not in expected]
    if missing or unknown:
        raise UserError(
            f"--to hf: transformers' {type(target).__name__} has no place for these towers "
            f"({', '.join((missing + unknown)[:3])})"
        )
    target.load_state_dict(state, strict=False)


@torch.no_grad()
def read(folder: Path, probe: Probe) -> Features:
    """Features as transformers computes them from the folder, texts through its own tokenizer."""
    hf = transformers_or_raise()
    model = hf.CLIPModel.from_pretrained(folder).eval()
    tokenizer = hf.CLIPProcessor.from_pretrained(folder).tokenizer
    tokens = tokenizer(list(probe.texts), padding=True, truncation=True, return_tensors="pt")
    out = model(
        input_ids=tokens["input_ids"],
        attention_mask=tokens["attention_mask"],
        pixel_values=probe.images,
    )
    return Features.of(out.image_embeds, out.text_embeds)


def usage(folder: Path) -> str:
    """How to load it."""
    return (
        "from transformers import CLIPModel, CLIPProcessor\n"
        f'model = CLIPModel.from_pretrained("{folder}")\n'
        f'processor = CLIPProcessor.from_pretrained("{folder}")'
    )


def hf_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's tensors under transformers' names.

    Raises:
        UserError: a tensor that CLIPModel does not have.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        found |= dict(_renamed(name.removeprefix("text."), tensor))
    return {name: tensor.detach().float().contiguous().clone() for name, tensor in found.items()}


def _renamed(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    if name == "logit_scale":
        yield name, tensor.reshape(())
        return
    if name == "visual.proj":
        yield "visual_projection.weight", tensor.T
        return
    if name == "text_projection":
        yield "text_projection.weight", tensor.T
        return
    vision = name.startswith("visual.")
    rest = name.removeprefix("visual.")
    if (plain := (VISION if vision else TEXT).get(rest)) is not None:
        yield plain, tensor
        return
    if rest.startswith("transformer.resblocks."):
        number, _, part = rest.removeprefix("transformer.resblocks.").partition(".")
        layer = f"{'vision' if vision else 'text'}_model.encoder.layers.{number}."
        if part in ("attn.in_proj_weight", "attn.in_proj_bias"):
            for letter, third in zip("qkv", tensor.chunk(3), strict=True):
                yield f"{layer}self_attn.{letter}_proj.{part.rpartition('_')[2]}", third
            return
        for ours, theirs in BLOCK.items():
            if part.startswith(ours):
                yield layer + theirs + part.removeprefix(ours), tensor
                return
    raise UserError(f'--to hf: transformers\' CLIPModel has no place for "{name}"; use --to open_clip')


def hf_config(visual: Any, text: TextTower) -> dict[str, Any]:
    """Arguments of CLIPConfig, read from the towers themselves."""
    embed_dim = visual.proj.shape[1]
    return {
        "projection_dim": embed_dim,
        "vision_config": {
            **_tower(visual.transformer.resblocks),
            "image_size": visual.image_size[0] if isinstance(visual.image_size, tuple) else visual.image_size,
            "patch_size": visual.conv1.kernel_size[0],
            "projection_dim": embed_dim,
        },
        "text_config": text_config(text, embed_dim),
    }


def text_config(text: TextTower, embed_dim: int) -> dict[str, Any]:
    """Arguments of CLIPTextConfig; stretched towers have as many positions as they read."""
    words = text.token_embedding.num_embeddings
    return {
        **_tower(text.transformer.resblocks),
        "vocab_size": words,
        "max_position_embeddings": text.positional_embedding.shape[0],
        "projection_dim": embed_dim,
        # The feature is read at the first end token. What pads stands behind it, where a causal tower does not
        # look.
        "bos_token_id": words - 2,
        "eos_token_id": words - 1,
        "pad_token_id": words - 1,
    }


def _tower(blocks: Any) -> dict[str, Any]:
    first = blocks[0]
    return {
        "hidden_size": first.ln_1.weight.shape[0],
        "intermediate_size": first.mlp.c_fc.out_features,
        "num_hidden_layers": len(blocks),
        "num_attention_heads": first.attn.num_heads,
        "hidden_act": _activation(first.mlp.gelu),
        "layer_norm_eps": first.ln_1.eps,
    }


def _activation(module: nn.Module) -> str:
    if isinstance(module, QuickGELU):
        return "quick_gelu"
    if isinstance(module, nn.GELU):
        return "gelu" if module.approximate == "none" else "gelu_pytorch_tanh"
    raise UserError(f"--to hf: transformers' CLIPModel has no activation {type(module).__name__}")


def write_tokenizer(tokenizer: SimpleTokenizer, context: int, folder: Path) -> None:
    """CLIP's vocabulary and merges in transformers' files."""
    names = {"<start_of_text>": START, "<end_of_text>": END}
    vocabulary = {names.get(token, token): number for token, number in tokenizer.encoder.items()}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    merges = "".join(f"{left} {right}\n" for left, right in tokenizer.bpe_ranks)
    (folder / "merges.txt").write_text("#version: 0.2\n" + merges, encoding="utf-8")
    facts = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": context,
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": END,
        "do_lower_case": True,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def _check(model: Exported) -> tuple[Any, TextTower]:
    """The two towers, where transformers has a class for them."""
    backbone = model.backbone
    if backbone.kind != "vit":
        raise UserError(
            f"--to hf: transformers has no CLIP class with a {backbone.kind} tower; use --to open_clip, "
            "safetensors or onnx"
        )
    height, width = backbone.image_size
    if height != width:
        raise UserError(
            f"--to hf: transformers' CLIPModel takes square images, not {height} x {width} pixels"
        )
    return backbone.model.visual, check_text(backbone)


def check_text(backbone: Backbone) -> TextTower:
    """The text tower, where transformers has a class for it.

    Raises:
        UserError: it is not CLIP's own.
    """
    text = text_tower(backbone.model)
    tokenizer = backbone.tokenizer
    if text is None or text.pool != "argmax" or not isinstance(tokenizer, SimpleTokenizer):
        raise UserError(
            f"--to hf: the text tower of {backbone.spec} is not CLIP's own; use --to open_clip, which holds it "
            "as it is"
        )
    if text.token_embedding.num_embeddings != len(tokenizer.encoder):
        raise UserError(
            f"--to hf: {backbone.spec} has another vocabulary than its tokenizer; use --to open_clip"
        )
    return text


def transformers_or_raise() -> Any:
    """The transformers package, without its bars and advice.

    Raises:
        UserError: it is not installed.
    """
    try:
        import transformers
    except ImportError:
        raise UserError('--to hf needs transformers: pip install "clipalign[hf]"') from None
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers
