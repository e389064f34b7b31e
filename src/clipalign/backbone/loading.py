"""Backbones by name: "pocket", "ViT-B-16:openai", "ViT-B-16:my.safetensors", "hf:org/name" and others.

"@PIXELS" after any name sets the image size.
"""

from __future__ import annotations

import difflib
import logging
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.pretrained import download_pretrained_from_hf

from ..core.errors import UserError
from ..core.reading import read_json
from . import huggingface, pocket, slip
from .build import complete, create, split_size, tokenizer_of
from .model import Backbone
from .network import first_line, offline_if_unreachable, quiet

log = logging.getLogger(__name__)

_FOLDER_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "model.safetensors",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
)


def list_backbones() -> list[str]:
    """Return the names that `load` takes without a file: "pocket" and every ARCHITECTURE:TAG of open_clip."""
    return ["pocket", *(f"{name}:{tag}" for name, tag in open_clip.list_pretrained())]


def load(
    spec: str,
    device: torch.device | str = "cpu",
    cache_dir: str | None = None,
    *,
    pretrained: bool = True,
    seed: int = 0,
) -> Backbone:
    """Build a backbone with float32 weights, in evaluation mode.

    Args:
        spec: one of
            "pocket" (shipped with the package),
            "ARCHITECTURE:TAG" (an open_clip architecture and one of its pretrained tags),
            "ARCHITECTURE:FILE" (a .safetensors, .pt, .pth, .pth.tar or .bin file of that architecture; SLIP's and
                DeCLIP's checkpoints have the architectures `slip.NAMES`),
            "ARCHITECTURE:random",
            "hf-hub:ORG/NAME" or "local-dir:FOLDER" (open_clip_config.json and weights),
            "hf:ORG/NAME" or "hf:FOLDER" (CLIP or SigLIP of transformers: config.json and model.safetensors);
            each optionally followed by "@PIXELS" ("pocket@96", "ViT-B-16:openai@336") for images of that size: the
            positional embedding of a ViT is interpolated, as open_clip and timm do.
        device: of the weights.
        cache_dir: folder of downloaded weights; None for that of the Hugging Face hub.
        pretrained: if False, use random weights and download none; the activation is still the one of the tag.
        seed: of random weights; the global RNG state is unchanged.

    Raises:
        UserError: unknown name or tag; towers that this package would compute wrongly; weights that are missing,
            unreadable, do not fit, or cannot be downloaded.

    Example:
        >>> backbone = load("pocket")
        >>> backbone.encode_text(["a cat", "a dog"]).shape == (2, backbone.embed_dim)
        True
    """
    name, size = split_size(spec)
    if name.startswith("hf:"):
        backbone = huggingface.load(spec, name.removeprefix("hf:"), size, cache_dir, pretrained, seed)
    elif name.startswith("hf-hub:"):
        backbone = _from_hub(spec, cache_dir, pretrained, seed)
    elif name.startswith("local-dir:"):
        folder = Path(name.removeprefix("local-dir:")).expanduser()
        backbone = _from_folder(spec, folder, _weights_in(folder) if pretrained else None, seed, cache_dir)
    else:
        backbone = _from_architecture(spec, cache_dir, pretrained, seed)
    return backbone.eval().to(device)


def _from_architecture(spec: str, cache_dir: str | None, pretrained: bool, seed: int) -> Backbone:
    name, _, source = split_size(spec)[0].partition(":")
    pocket.register()
    slip.register()
    architecture = pocket.ARCHITECTURE if name == "pocket" else name
    config = open_clip.get_model_config(architecture)
    if config is None:
        close = difflib.get_close_matches(name, ["pocket", *open_clip.list_models()], n=3)
        hint = f"did you mean {', '.join(close)}?" if close else "`clipalign list backbones` shows the names"
        if "/" in name:
            hint = f"for a repository of transformers write hf:{spec}, for one of open_clip hf-hub:{spec}"
        raise UserError(f'--backbone {spec}: unknown architecture "{name}"; {hint}')

    random = source == "random" or not pretrained
    tag = open_clip.get_pretrained_cfg(architecture, source) if source else {}
    file: Path | None = None
    if architecture == pocket.ARCHITECTURE and not source:
        file = pocket.WEIGHTS
        if not random and not file.is_file():
            raise UserError(f"--backbone pocket: the weights file of the pocket backbone is missing: {file}")
    elif source and source != "random" and not tag:
        file = Path(source).expanduser()
        if not random and not file.is_file():
            raise UserError(f'--backbone {spec}: "{source}" is neither a file nor a tag. {_choices(name)}')
        quick = f"{name}-quickgelu"
        if not random and quick in open_clip.list_models():
            log.warning("%s: exact GELU; if the weights derive from OpenAI's, use %s instead", spec, quick)
    elif not source and not random:
        raise UserError(f"--backbone {spec}: no weights given. {_choices(name)}")

    # Some tags belong to plain architectures but were trained with QuickGELU, so the tag decides.
    preprocess = slip.preprocess(architecture) | (
        _preprocess(tag) if tag else _common_preprocess(architecture)
    )
    if architecture == pocket.ARCHITECTURE:
        preprocess = {
            k: tuple(v) if isinstance(v, list) else v for k, v in pocket.config()["preprocess"].items()
        }
    with quiet(), offline_if_unreachable():
        model = create(spec, architecture, config, seed, bool(tag.get("quick_gelu")), preprocess)
        slip.restore_activation(model, architecture)
        tokenizer = tokenizer_of(spec, architecture, config, cache_dir)
        if not random:
            file = file or _download(spec, architecture, tag, cache_dir)
    return complete(spec, model, tokenizer, None if random else file)


def _from_hub(spec: str, cache_dir: str | None, pretrained: bool, seed: int) -> Backbone:
    repository = split_size(spec)[0].removeprefix("hf-hub:")
    with quiet(), offline_if_unreachable():
        try:
            config = download_pretrained_from_hf(repository, "open_clip_config.json", cache_dir=cache_dir)
            weights = download_pretrained_from_hf(repository, cache_dir=cache_dir) if pretrained else None
        except Exception as error:
            raise UserError(
                f"--backbone {spec}: not in the cache, and the download failed ({first_line(error)}). "
                "Without network, copy the repository to a folder and use --backbone local-dir:FOLDER"
            ) from error
    return _from_folder(spec, Path(config).parent, Path(weights) if weights else None, seed, cache_dir)


def _from_folder(spec: str, folder: Path, weights: Path | None, seed: int, cache_dir: str | None) -> Backbone:
    file = folder / "open_clip_config.json"
    try:
        config = read_json(file, f"--backbone {spec}: ")["model_cfg"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--backbone {spec}: cannot read an open_clip configuration from {file} ({error})"
        ) from error
    with quiet(), offline_if_unreachable():
        model = create(spec, f"local-dir:{folder}", config, seed, False, {})
        # The tokenizer files of a hub repository are only found by the hub name.
        name = split_size(spec)[0] if spec.startswith("hf-hub:") else f"local-dir:{folder}"
        tokenizer = tokenizer_of(spec, name, config, cache_dir)
    return complete(spec, model, tokenizer, weights)


def _preprocess(tag: dict[str, Any]) -> dict[str, Any]:
    """Return the preprocessing of a pretrained tag."""
    return {k: tag[k] for k in ("mean", "std", "interpolation", "resize_mode") if k in tag}


def _common_preprocess(architecture: str) -> dict[str, Any]:
    """Return the preprocessing on which all tags of an architecture agree, for files and random weights."""
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    every = [_preprocess(open_clip.get_pretrained_cfg(architecture, tag)) for tag in tags]
    return {k: v for k, v in every[0].items() if all(one.get(k) == v for one in every)} if every else {}


def _weights_in(folder: Path) -> Path:
    for name in _FOLDER_WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise UserError(
        f"--backbone local-dir:{folder}: no weights there; expected one of {', '.join(_FOLDER_WEIGHTS)}"
    )


def _download(spec: str, architecture: str, tag: dict[str, Any], cache_dir: str | None) -> Path:
    try:
        return Path(open_clip.download_pretrained(tag, cache_dir=cache_dir))
    except Exception as error:
        repository = tag.get("hf_hub", "").rpartition("/")[0]
        where = f"https://huggingface.co/{repository}" if repository else tag.get("url", "")
        quick = f"{architecture}-quickgelu"
        name = quick if tag.get("quick_gelu") and quick in open_clip.list_models() else architecture
        raise UserError(
            f"--backbone {spec}: its weights are not in the cache, and the download failed "
            f"({first_line(error)}). Without network, download them from {where} elsewhere and pass the file: "
            f"--backbone {name}:FILE"
        ) from error


def _choices(name: str) -> str:
    tags = ", ".join(f"{name}:{tag}" for tag in open_clip.list_pretrained_tags_by_model(name))
    listed = f"Its tags: {tags}. " if tags else "open_clip has no tag for it. "
    return f"{listed}Or pass a file ({name}:PATH), or {name}:random for random weights"
