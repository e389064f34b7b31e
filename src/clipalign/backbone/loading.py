"""Backbones by name: "pocket", "ViT-B-16:openai", "ViT-B-16:my.safetensors", "hf-hub:org/name" and others.

"@PIXELS" after any name sets the image size.
"""

from __future__ import annotations

import difflib
import json
import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import huggingface_hub.constants
import open_clip
import torch
from open_clip.pretrained import download_pretrained_from_hf

from ..core.errors import UserError
from . import pocket, slip
from .checkpoints import load_weights
from .model import Backbone

log = logging.getLogger(__name__)

_FOLDER_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "model.safetensors",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
)


def list_backbones() -> list[str]:
    """Return the names that `load` takes without a file: "pocket" and every supported ARCHITECTURE:TAG of open_clip."""
    supported = {
        name for name in open_clip.list_models() if not _unsupported(open_clip.get_model_config(name))
    }
    pairs = [f"{name}:{tag}" for name, tag in open_clip.list_pretrained() if name in supported]
    return ["pocket", *pairs]


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
            "hf-hub:ORG/NAME",
            "local-dir:FOLDER" (open_clip_config.json and weights);
            each optionally followed by "@PIXELS" ("pocket@96", "ViT-B-16:openai@336") for images of that size: the
            positional embedding of a ViT is interpolated, as open_clip does.
        device: of the weights.
        cache_dir: folder of downloaded weights; None for that of the Hugging Face hub.
        pretrained: if False, use random weights and download none; the activation is still the one of the tag.
        seed: of random weights; the global RNG state is unchanged.

    Raises:
        UserError: unknown name or tag; unsupported towers; weights that are missing, unreadable, do not fit, or cannot
            be downloaded.

    Example:
        >>> backbone = load("pocket")
        >>> backbone.encode_text(["a cat", "a dog"]).shape == (2, backbone.embed_dim)
        True
    """
    name, size = split_size(spec)
    if name.startswith("hf-hub:"):
        backbone = _from_hub(spec, cache_dir, pretrained, seed)
    elif name.startswith("local-dir:"):
        folder = Path(name.removeprefix("local-dir:")).expanduser()
        backbone = _from_folder(spec, folder, _weights_in(folder) if pretrained else None, seed, cache_dir)
    else:
        backbone = _from_architecture(spec, cache_dir, pretrained, seed)
    if size is not None and backbone.kind != "vit":
        raise UserError(f"--backbone {spec}: only ViT towers can change the image size; drop the @{size}")
    return backbone.eval().to(device)


def split_size(spec: str) -> tuple[str, int | None]:
    """Split the image size from a name.

    Example:
        >>> split_size("pocket@96"), split_size("pocket")
        (('pocket', 96), ('pocket', None))
    """
    match = re.fullmatch(r"(.+)@(\d+)", spec)
    return (match[1], int(match[2])) if match else (spec, None)


def _from_architecture(spec: str, cache_dir: str | None, pretrained: bool, seed: int) -> Backbone:
    name, _, source = split_size(spec)[0].partition(":")
    pocket.register()
    slip.register()
    architecture = pocket.ARCHITECTURE if name == "pocket" else name
    config = open_clip.get_model_config(architecture)
    if config is None:
        close = difflib.get_close_matches(name, ["pocket", *open_clip.list_models()], n=3)
        hint = f"did you mean {', '.join(close)}?" if close else "`clipalign list backbones` shows the names"
        raise UserError(f'--backbone {spec}: unknown architecture "{name}"; {hint}')
    if reason := _unsupported(config):
        raise UserError(f"--backbone {spec}: {reason}, which clipalign does not support")

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
    keys = ("mean", "std", "interpolation", "resize_mode")
    preprocess = slip.preprocess(architecture) | {k: tag[k] for k in keys if k in tag}
    if architecture == pocket.ARCHITECTURE:
        preprocess = {
            k: tuple(v) if isinstance(v, list) else v for k, v in pocket.config()["preprocess"].items()
        }
    with _quiet(), _offline_if_unreachable():
        model = _create(spec, architecture, seed, bool(tag.get("quick_gelu")), preprocess)
        slip.restore_activation(model, architecture)
        backbone = Backbone(model, _tokenizer(spec, architecture, cache_dir), spec)
        if not random:
            file = file or _download(spec, architecture, tag, cache_dir)
            load_weights(model, file, resize=split_size(spec)[1] is not None)
    return backbone


def _from_hub(spec: str, cache_dir: str | None, pretrained: bool, seed: int) -> Backbone:
    repository = split_size(spec)[0].removeprefix("hf-hub:")
    with _quiet(), _offline_if_unreachable():
        try:
            config = download_pretrained_from_hf(repository, "open_clip_config.json", cache_dir=cache_dir)
            weights = download_pretrained_from_hf(repository, cache_dir=cache_dir) if pretrained else None
        except Exception as error:
            raise UserError(
                f"--backbone {spec}: not in the cache, and the download failed ({_first_line(error)}). "
                "Without network, copy the repository to a folder and use --backbone local-dir:FOLDER"
            ) from error
    return _from_folder(spec, Path(config).parent, Path(weights) if weights else None, seed, cache_dir)


def _from_folder(spec: str, folder: Path, weights: Path | None, seed: int, cache_dir: str | None) -> Backbone:
    file = folder / "open_clip_config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))["model_cfg"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--backbone {spec}: cannot read an open_clip configuration from {file} ({error})"
        ) from error
    if reason := _unsupported(config):
        raise UserError(f"--backbone {spec}: {reason}, which clipalign does not support")
    with _quiet(), _offline_if_unreachable():
        model = _create(spec, f"local-dir:{folder}", seed, False, {})
        # The tokenizer files of a hub repository are only found by the hub name.
        name = split_size(spec)[0] if spec.startswith("hf-hub:") else f"local-dir:{folder}"
        backbone = Backbone(model, _tokenizer(spec, name, cache_dir), spec)
        if weights is not None:
            load_weights(model, weights, resize=split_size(spec)[1] is not None)
    return backbone


def _weights_in(folder: Path) -> Path:
    for name in _FOLDER_WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise UserError(
        f"--backbone local-dir:{folder}: no weights there; expected one of {', '.join(_FOLDER_WEIGHTS)}"
    )


def _create(spec: str, name: str, seed: int, quick_gelu: bool, preprocess: dict[str, Any]) -> Any:
    """Return the open_clip model with seeded random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the GPUs as well
        try:
            return open_clip.create_model(
                name,
                load_weights=False,
                pretrained_text=False,
                force_quick_gelu=quick_gelu,
                force_preprocess_cfg=preprocess,
                force_image_size=split_size(spec)[1],
            )
        except Exception as error:
            raise UserError(f"--backbone {spec}: open_clip cannot build it ({_first_line(error)})") from error


def _tokenizer(spec: str, name: str, cache_dir: str | None) -> Any:
    try:
        return open_clip.get_tokenizer(name, cache_dir=cache_dir)
    except Exception as error:
        raise UserError(f"--backbone {spec}: cannot load its tokenizer ({_first_line(error)})") from error


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
            f"({_first_line(error)}). Without network, download them from {where} elsewhere and pass the file: "
            f"--backbone {name}:FILE"
        ) from error


def _unsupported(config: dict[str, Any]) -> str | None:
    """Return why the towers of an open_clip configuration are not supported, or None if they are."""
    vision = config["vision_cfg"]
    if "timm_model_name" in vision:
        return f"its vision tower is timm's {vision['timm_model_name']}"
    if "multimodal_cfg" in config or vision.get("attentional_pool"):
        return "its vision tower pools by learned queries"
    if vision.get("pool_type", "tok") != "tok":
        return "its vision tower does not pool by the class token"
    return None


def _choices(name: str) -> str:
    tags = ", ".join(f"{name}:{tag}" for tag in open_clip.list_pretrained_tags_by_model(name))
    listed = f"Its tags: {tags}. " if tags else "open_clip has no tag for it. "
    return f"{listed}Or pass a file ({name}:PATH), or {name}:random for random weights"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress open_clip's messages to the root logger, which warn about weights that this module loads itself."""
    root = logging.getLogger()
    handler, disabled = logging.NullHandler(), root.manager.disable
    root.addHandler(handler)  # else `logging.warning` would install a handler permanently
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
        root.removeHandler(handler)


@contextmanager
def _offline_if_unreachable() -> Iterator[None]:
    """Use the hub's cache without a minute of retries if the hub cannot be reached."""
    host = urlparse(huggingface_hub.constants.ENDPOINT).hostname or "huggingface.co"
    proxied = any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"))
    offline = huggingface_hub.constants.HF_HUB_OFFLINE
    try:
        if not proxied and not offline:
            socket.getaddrinfo(host, 443)
    except OSError:
        huggingface_hub.constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        huggingface_hub.constants.HF_HUB_OFFLINE = offline
