"""A Hugging Face folder: `CLIPModel.from_pretrained(FOLDER)` and `CLIPProcessor.from_pretrained(FOLDER)`.

open_clip and transformers store the same towers in two layouts; see `backbone.hf_names`.
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
from ...backbone.hf_names import BLOCK, END, PREPROCESS_RESAMPLE, START, TEXT, VISION
from ...backbone.text.tower import TextTower, text_tower
from ...core.errors import UserError
from .base import ExportedModel, ExportFormat, Features, Probe


class HuggingFace(ExportFormat):
    """CLIPModel, image processor and tokenizer."""

    library = "transformers"
    summary = "CLIPModel with processor (extra [hf])"

    def write(self, model: ExportedModel, folder: Path) -> None:
        hf = import_transformers()
        visual, text = _towers(model.backbone)
        target = hf.CLIPModel(hf.CLIPConfig(**hf_config(visual, text))).eval()
        load_into(target, hf_state(model.backbone.model.state_dict()))
        target.save_pretrained(folder)
        write_tokenizer(model.backbone.tokenizer, text.positional_embedding.shape[0], folder)
        size = model.preprocess.size[0]
        images = hf.CLIPImageProcessor(
            size={"shortest_edge": size},
            crop_size={"height": size, "width": size},
            image_mean=list(model.preprocess.mean),
            image_std=list(model.preprocess.std),
            resample=PREPROCESS_RESAMPLE[model.preprocess.interpolation],
        )
        hf.CLIPProcessor(images, hf.CLIPTokenizer.from_pretrained(folder)).save_pretrained(folder)

    @torch.no_grad()
    def read(self, folder: Path, probe: Probe) -> Features:
        hf = import_transformers()
        model = hf.CLIPModel.from_pretrained(folder).eval()
        tokenizer = hf.CLIPProcessor.from_pretrained(folder).tokenizer
        tokens = tokenizer(list(probe.texts), padding=True, truncation=True, return_tensors="pt")
        out = model(
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
            pixel_values=probe.images,
        )
        return Features.of(out.image_embeds, out.text_embeds)

    def usage(self, folder: Path) -> str:
        return (
            "from transformers import CLIPModel, CLIPProcessor\n"
            f'model = CLIPModel.from_pretrained("{folder}")\n'
            f'processor = CLIPProcessor.from_pretrained("{folder}")'
        )


def load_into(target: Any, state: dict[str, Tensor]) -> None:
    """Load tensors into a model of transformers.

    Raises:
        UserError: the names differ.
    """
    expected = target.state_dict()
    # Some versions of transformers store the position indices, which are not weights.
    missing = [name for name in expected if name not in state and not name.endswith("position_ids")]
    unknown = [name for name in state if name not in expected]
    if missing or unknown:
        raise UserError(
            f"--to hf: the tensors of these towers do not match transformers' {type(target).__name__} "
            f"({', '.join((missing + unknown)[:3])})"
        )
    target.load_state_dict(state, strict=False)


def hf_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert open_clip's tensors to transformers' names and layout.

    Raises:
        UserError: CLIPModel has no such tensor.
    """
    converted: dict[str, Tensor] = {}
    for name, tensor in state.items():
        converted |= dict(_convert(name.removeprefix("text."), tensor))
    return {name: tensor.detach().float().contiguous().clone() for name, tensor in converted.items()}


def _convert(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield one tensor of open_clip as one or, for stacked projections, three tensors of transformers."""
    if name == "logit_scale":
        yield name, tensor.reshape(())  # [1] or [] -> []
        return
    if name == "visual.proj":
        yield "visual_projection.weight", tensor.T  # [W, d] -> [d, W]
        return
    if name == "text_projection":
        yield "text_projection.weight", tensor.T  # [W, d] -> [d, W]
        return
    vision = name.startswith("visual.")
    rest = name.removeprefix("visual.")
    if (direct := (VISION if vision else TEXT).get(rest)) is not None:
        yield direct, tensor
        return
    if rest.startswith("transformer.resblocks."):
        number, _, part = rest.removeprefix("transformer.resblocks.").partition(".")
        layer = f"{'vision' if vision else 'text'}_model.encoder.layers.{number}."
        if part in ("attn.in_proj_weight", "attn.in_proj_bias"):
            for letter, third in zip("qkv", tensor.chunk(3), strict=True):  # [3 W, ...] -> 3 x [W, ...]
                yield f"{layer}self_attn.{letter}_proj.{part.rpartition('_')[2]}", third
            return
        for ours, theirs in BLOCK.items():
            if part.startswith(ours):
                yield layer + theirs + part.removeprefix(ours), tensor
                return
    raise UserError(f'--to hf: transformers\' CLIPModel has no tensor for "{name}"; use --to open_clip')


def hf_config(visual: Any, text: TextTower) -> dict[str, Any]:
    """Return the arguments of CLIPConfig that describe two towers."""
    embed_dim = visual.proj.shape[1]
    return {
        "projection_dim": embed_dim,
        "vision_config": {
            **_transformer(visual.transformer.resblocks),
            "image_size": visual.image_size[0] if isinstance(visual.image_size, tuple) else visual.image_size,
            "patch_size": visual.conv1.kernel_size[0],
            "projection_dim": embed_dim,
        },
        "text_config": text_config(text, embed_dim),
    }


def text_config(text: TextTower, embed_dim: int) -> dict[str, Any]:
    """Return the arguments of CLIPTextConfig; stretched towers keep their number of positions."""
    vocabulary = text.token_embedding.num_embeddings
    return {
        **_transformer(text.transformer.resblocks),
        "vocab_size": vocabulary,
        "max_position_embeddings": text.positional_embedding.shape[0],
        "projection_dim": embed_dim,
        # The feature is read at the first end token. Padding follows it, and causal attention ignores what follows.
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": vocabulary - 1,
    }


def _transformer(blocks: Any) -> dict[str, Any]:
    """Return the settings of a stack of open_clip's residual blocks."""
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
    """Write CLIP's vocabulary and merges in transformers' format."""
    names = {"<start_of_text>": START, "<end_of_text>": END}
    vocabulary = {names.get(token, token): number for token, number in tokenizer.encoder.items()}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    merges = "".join(f"{left} {right}\n" for left, right in tokenizer.bpe_ranks)
    (folder / "merges.txt").write_text("#version: 0.2\n" + merges, encoding="utf-8")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": context,
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": END,
        "do_lower_case": True,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def _towers(backbone: Backbone) -> tuple[Any, TextTower]:
    """Return image and text tower.

    Raises:
        UserError: transformers has no class for one of them.
    """
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
    return backbone.model.visual, clip_text_tower(backbone)


def clip_text_tower(backbone: Backbone) -> TextTower:
    """Return the text tower.

    Raises:
        UserError: it is not CLIP's, so transformers' CLIP classes cannot hold it.
    """
    text = text_tower(backbone.model)
    tokenizer = backbone.tokenizer
    if text is None or text.pool != "argmax" or not isinstance(tokenizer, SimpleTokenizer):
        raise UserError(
            f"--to hf: the text tower of {backbone.spec} is not CLIP's; use --to open_clip, which supports it"
        )
    if text.token_embedding.num_embeddings != len(tokenizer.encoder):
        raise UserError(
            f"--to hf: the vocabularies of {backbone.spec} and its tokenizer differ; use --to open_clip"
        )
    return text


def import_transformers() -> Any:
    """Import transformers without its progress bars and warnings.

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
