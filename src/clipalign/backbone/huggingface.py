"""CLIP and SigLIP of transformers, from a repository or folder: "hf:ORG/NAME", "hf:FOLDER".

Configuration and weights are converted to open_clip's architecture, so everything that works on open_clip's towers
works on them. Weights are read from safetensors only.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
from huggingface_hub import snapshot_download
from open_clip.tokenizer import HFTokenizer
from safetensors.torch import load_file
from torch import Tensor, nn

from ..core.errors import UserError
from ..core.reading import read_json
from .build import clip_tokenizer, complete, seeded, try_tokenizer
from .hf_names import END, PREPROCESS_RESAMPLE, START, clip_to_open_clip, siglip_to_open_clip
from .model import Backbone
from .network import first_line, offline_if_unreachable, quiet

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
TOKENIZER_FILES = [
    "*.txt",
    "tokenizer*",
    "vocab*",
    "special_tokens_map.json",
    "added_tokens.json",
    "spiece.model",
]
# Published with the models; used if preprocessor_config.json is missing.
CLIP_PREPROCESS = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
SIGLIP_PREPROCESS = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "resize_mode": "squash"}


def load(
    spec: str, location: str, size: int | None, cache_dir: str | None, pretrained: bool, seed: int
) -> Backbone:
    """Build a backbone from a repository or folder of transformers.

    Args:
        spec: of the backbone, for messages.
        location: folder, or ORG/NAME.
        size: image size; None for that of the configuration.
        cache_dir: folder of downloads.
        pretrained: if False, use random weights.
        seed: of random weights.

    Raises:
        UserError: no such folder, and the download failed; a model other than CLIP and SigLIP; weights that are
            missing, pickled or do not fit; transformers is not installed.
    """
    with quiet(), offline_if_unreachable():
        folder = _folder(spec, location, cache_dir, pretrained)
        config = read_config(spec, folder)
        cfg = model_config(spec, config)
        if size is not None:
            cfg["vision_cfg"]["image_size"] = size
        with seeded(seed):
            siglip = config.model_type == "siglip"
            model = _siglip(cfg, config.vision_config) if siglip else open_clip.CLIP(**cfg)
        open_clip.set_model_preprocess_cfg(model, _preprocess(folder, siglip))
        tokenizer = try_tokenizer(
            spec, cfg, partial(_tokenizer, folder, cfg["text_cfg"]["context_length"], siglip)
        )
        if not pretrained:
            return complete(spec, model, tokenizer, None)
        state = _read_weights(spec, folder)
        state = siglip_to_open_clip(state) if siglip else clip_to_open_clip(state)
        return complete(spec, model, tokenizer, folder, state)


def open_clip_config(spec: str, location: str, cache_dir: str | None) -> dict[str, Any]:
    """Return the configuration with which open_clip builds a CLIP of transformers; arguments as `load`.

    Raises:
        UserError: as `load`; a SigLIP, whose image tower open_clip builds by the name of a published one only.
    """
    config = read_config(spec, _folder(spec, location, cache_dir, pretrained=False))
    if config.model_type == "siglip":
        raise UserError(f"open_clip's configuration cannot describe the image tower of --backbone {spec}")
    return model_config(spec, config)


def _folder(spec: str, location: str, cache_dir: str | None, pretrained: bool) -> Path:
    """Return the local folder, or the repository's in the cache, downloaded if needed."""
    folder = Path(location).expanduser()
    if folder.is_dir():
        return folder
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", location):
        raise UserError(f"--backbone {spec}: {location} is neither a folder nor a repository (ORG/NAME)")
    patterns = ["config.json", "preprocessor_config.json", "processor_config.json", *TOKENIZER_FILES]
    if pretrained:
        patterns += [WEIGHTS, "model-*.safetensors", INDEX]
    try:
        return Path(snapshot_download(location, cache_dir=cache_dir, allow_patterns=patterns))
    except Exception as error:
        raise UserError(
            f"--backbone {spec}: neither a folder nor in the cache, and the download failed ({first_line(error)}). "
            "Without network, copy the repository to a folder and use --backbone hf:FOLDER"
        ) from error


def read_config(spec: str, folder: Path) -> Any:
    """Return the configuration as transformers reads it, with defaults filled in.

    Raises:
        UserError: config.json is missing, unreadable or of another model; transformers is not installed.
    """
    file = folder / "config.json"
    try:
        kind = read_json(file).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"--backbone {spec}: cannot read {file} ({error})") from error
    try:
        import transformers
    except ImportError:
        raise UserError(f'--backbone {spec} needs transformers: pip install "clipalign[hf]"') from None
    classes: dict[str, Any] = {"clip": transformers.CLIPConfig, "siglip": transformers.SiglipConfig}
    if kind not in classes:
        raise UserError(
            f'--backbone {spec}: {file} describes a model of type "{kind}"; clip and siglip are supported'
        )
    try:
        return classes[kind].from_json_file(file)
    except Exception as error:  # of transformers' validation
        raise UserError(f"--backbone {spec}: cannot read {file} ({first_line(error)})") from error


def model_config(spec: str, config: Any) -> dict[str, Any]:
    """Return open_clip's configuration of a CLIPConfig or SiglipConfig.

    Raises:
        UserError: settings that open_clip's towers do not have.
    """
    vision, text, siglip = config.vision_config, config.text_config, config.model_type == "siglip"
    quick = {vision.hidden_act == "quick_gelu", text.hidden_act == "quick_gelu"}
    for tower in (vision, text):
        if tower.hidden_act not in ("quick_gelu", "gelu", "gelu_pytorch_tanh"):
            raise UserError(f'--backbone {spec}: activation "{tower.hidden_act}" is not supported')
    if len(quick) > 1 or (siglip and True in quick):
        raise UserError(
            f"--backbone {spec}: the towers' activations differ, which open_clip does not support"
        )
    last = text.vocab_size - 1
    # transformers reads the largest id of configurations whose end token is 2, which is a former default.
    argmax = text.eos_token_id in (2, last)
    text_cfg = {
        **_tower(text),
        "context_length": text.max_position_embeddings,
        "vocab_size": text.vocab_size,
        "heads": text.num_attention_heads,
        "pool_type": "argmax" if argmax else "eos",
        "eos_id": text.eos_token_id,
    }
    vision_cfg = {
        **_tower(vision),
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
        "head_width": vision.hidden_size // vision.num_attention_heads,
    }
    if siglip:
        text_cfg |= {"pool_type": "last", "no_causal_mask": True, "proj_bias": True}
        embed_dim = getattr(text, "projection_size", None) or text.hidden_size
        return {
            "embed_dim": embed_dim,
            "vision_cfg": vision_cfg,
            "text_cfg": text_cfg,
            "init_logit_bias": -10.0,
        }
    return {
        "embed_dim": config.projection_dim,
        "vision_cfg": vision_cfg,
        "text_cfg": text_cfg,
        "quick_gelu": True in quick,
    }


def _tower(config: Any) -> dict[str, Any]:
    """Return what image and text tower have in common."""
    return {
        "width": config.hidden_size,
        "layers": config.num_hidden_layers,
        "mlp_ratio": (config.intermediate_size + 0.5)
        / config.hidden_size,  # open_clip rounds the product down
        "act_kwargs": {"approximate": "tanh"} if config.hidden_act == "gelu_pytorch_tanh" else None,
        "norm_kwargs": {"eps": config.layer_norm_eps},
    }


def _siglip(cfg: dict[str, Any], vision: Any) -> Any:
    """Return open_clip's SigLIP. Its image tower is timm's, which open_clip builds by name only."""
    from timm.models.vision_transformer import VisionTransformer

    placeholder = {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "none"}
    size = cfg["vision_cfg"]["image_size"]
    model: Any = open_clip.CustomTextCLIP(**{**cfg, "vision_cfg": {**placeholder, "image_size": size}})
    tanh = {"approximate": "tanh"} if vision.hidden_act == "gelu_pytorch_tanh" else {}
    model.visual.trunk = VisionTransformer(
        img_size=vision.image_size,
        patch_size=vision.patch_size,
        embed_dim=vision.hidden_size,
        depth=vision.num_hidden_layers,
        num_heads=vision.num_attention_heads,
        mlp_ratio=cfg["vision_cfg"]["mlp_ratio"],
        qkv_bias=True,
        class_token=False,
        global_pool="map",
        num_classes=0,
        act_layer=partial(nn.GELU, **tanh),
        norm_layer=partial(nn.LayerNorm, eps=vision.layer_norm_eps),
    )
    return model


def _preprocess(folder: Path, siglip: bool) -> dict[str, Any]:
    """Return open_clip's preprocessing settings of an image processor."""
    settings: dict[str, Any] = {}
    for name in ("processor_config.json", "preprocessor_config.json"):
        if (folder / name).is_file():
            found = read_json(folder / name, f"--backbone {folder}: ")
            settings |= found.get("image_processor", found)
    chosen: dict[str, Any] = dict(SIGLIP_PREPROCESS if siglip else CLIP_PREPROCESS)
    for ours, theirs in (("mean", "image_mean"), ("std", "image_std")):
        if settings.get(theirs):
            chosen[ours] = tuple(settings[theirs])
    names = {number: name for name, number in PREPROCESS_RESAMPLE.items()}
    chosen["interpolation"] = names.get(settings.get("resample", 3), "bicubic")
    size = settings.get("size")
    if isinstance(size, dict) and size:
        crops = "shortest_edge" in size or bool(settings.get("do_center_crop", False))
        chosen["resize_mode"] = "shortest" if crops else "squash"
    return chosen


def _tokenizer(folder: Path, context_length: int, siglip: bool) -> Any:
    """Return open_clip's own tokenizer for CLIP's vocabulary, else that of transformers."""
    if not siglip:
        simple = clip_tokenizer(context_length)
        ours = {"<start_of_text>": START, "<end_of_text>": END}
        if _vocabulary(folder) == {ours.get(token, token): n for token, n in simple.encoder.items()}:
            return simple
    clean = "canonicalize" if siglip else "whitespace"
    return HFTokenizer(str(folder), context_length=context_length, clean=clean)


def _vocabulary(folder: Path) -> dict[str, int]:
    """Return token -> id of a byte-pair encoding, {} if there is none."""
    if (folder / "vocab.json").is_file():
        return dict(read_json(folder / "vocab.json"))
    if (folder / "tokenizer.json").is_file():
        vocabulary = read_json(folder / "tokenizer.json")["model"].get("vocab")
        return dict(vocabulary) if isinstance(vocabulary, dict) else {}
    return {}


def _read_weights(spec: str, folder: Path) -> dict[str, Tensor]:
    """Return the tensors of model.safetensors, or of its parts.

    Raises:
        UserError: there are none, or they are truncated.
    """
    names = [WEIGHTS]
    try:
        if not (folder / WEIGHTS).is_file() and (folder / INDEX).is_file():
            names = sorted(set(read_json(folder / INDEX)["weight_map"].values()))
        elif not (folder / WEIGHTS).is_file():
            pickled = next((f.name for f in folder.glob("*.bin")), None)
            found = f"only {pickled}, which is pickled" if pickled else "none there"
            raise UserError(
                f"--backbone {spec}: no {WEIGHTS} ({found}). Load the model with transformers, save it with "
                "save_pretrained(FOLDER), and use --backbone hf:FOLDER"
            )
        state: dict[str, Tensor] = {}
        for name in names:
            state |= load_file(folder / Path(name).name)
        return state
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"--backbone {spec}: cannot read {folder / names[0]} ({error})") from error
    except UserError:
        raise
    except Exception as error:  # of safetensors
        raise UserError(
            f"--backbone {spec}: cannot read weights in {folder}: truncated? ({error})"
        ) from error
