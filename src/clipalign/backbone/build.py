"""Steps of loading: random weights, the tokenizer, and the finished backbone."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, SimpleTokenizer
from torch import nn

from ..core.errors import UserError
from .checkpoints import load_state, load_weights
from .model import Backbone
from .network import first_line


def split_size(spec: str) -> tuple[str, int | None]:
    """Split the image size from a name.

    Example:
        >>> split_size("pocket@96"), split_size("pocket")
        (('pocket', 96), ('pocket', None))
    """
    match = re.fullmatch(r"(.+)@(\d+)", spec)
    return (match[1], int(match[2])) if match else (spec, None)


def create(
    spec: str, name: str, config: dict[str, Any], seed: int, quick_gelu: bool, preprocess: dict[str, Any]
) -> Any:
    """Return an open_clip model with seeded random weights.

    Args:
        spec: of the backbone, with the image size.
        name: architecture, or "local-dir:FOLDER".
        config: model configuration behind that name.
        seed: of the weights; the global RNG state is unchanged.
        quick_gelu: use QuickGELU even if the configuration does not.
        preprocess: replaces preprocessing settings of the configuration.

    Raises:
        UserError: an image size for a ResNet; open_clip cannot build the model.
    """
    size, vision = split_size(spec)[1], config["vision_cfg"]
    if size is not None and isinstance(vision.get("layers"), list | tuple):
        raise UserError(f"--backbone {spec}: a ResNet cannot change its image size; drop the @{size}")
    with seeded(seed):
        try:
            model = open_clip.create_model(
                name,
                load_weights=False,
                pretrained_text=False,
                pretrained_image=False,
                force_quick_gelu=quick_gelu,
                force_preprocess_cfg=preprocess,
                # Positions of timm's towers are interpolated after their weights are loaded.
                force_image_size=None if "timm_model_name" in vision else size,
            )
            if hasattr(model, "text_decoder"):  # open_clip leaves this projection of CoCa uninitialised
                nn.init.normal_(model.text_decoder.text_projection, std=0.02)
            return model
        except Exception as error:
            raise UserError(
                f"--backbone {spec}: open_clip cannot build it ({first_line(error)}){_needs(config, error)}"
            ) from error


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's CPU generator, and restore it afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the GPUs as well
        yield


def tokenizer_of(spec: str, name: str, config: dict[str, Any], cache_dir: str | None) -> Any:
    """Return the tokenizer of a model; arguments as `create`.

    Raises:
        UserError: its files cannot be read or downloaded, or transformers is not installed.
    """
    text = config["text_cfg"]
    # open_clip's rule for its default tokenizer
    if (
        not text.get("hf_tokenizer_name")
        and not text.get("tokenizer_kwargs")
        and "siglip" not in name.lower()
    ):
        return clip_tokenizer(text.get("context_length", DEFAULT_CONTEXT_LENGTH))
    return try_tokenizer(spec, config, lambda: open_clip.get_tokenizer(name, cache_dir=cache_dir))


def clip_tokenizer(context_length: int) -> SimpleTokenizer:
    """Return CLIP's tokenizer; the merge table, which takes long to read, is shared."""
    tokenizer = copy.copy(_tokenizer())  # a copy, since stretching the text window sets its context length
    tokenizer.context_length = context_length
    return tokenizer


@cache
def _tokenizer() -> SimpleTokenizer:
    return SimpleTokenizer()


def try_tokenizer(spec: str, config: dict[str, Any], get: Callable[[], Any]) -> Any:
    """Return the result of `get`, or raise UserError with what to do."""
    try:
        return get()
    except Exception as error:
        raise UserError(
            f"--backbone {spec}: cannot load its tokenizer ({first_line(error)}){_needs(config, error)}"
        ) from error


def _needs(config: dict[str, Any], error: Exception) -> str:
    """Return what a text tower from the Hugging Face hub needs, as the end of a message; "" for other errors."""
    text = config["text_cfg"]
    names = {text[key] for key in ("hf_model_name", "hf_tokenizer_name") if text.get(key)}
    if not names or not isinstance(error, OSError | ImportError | RuntimeError):
        return ""
    return (
        f'. Its text needs transformers (pip install "clipalign[hf]") and files of {" and ".join(sorted(names))} from '
        "the Hugging Face hub. Without network, copy a repository with open_clip_config.json, weights and tokenizer to "
        "a folder and use --backbone local-dir:FOLDER"
    )


def complete(
    spec: str,
    model: Any,
    tokenizer: Any,
    weights: Path | None,
    state: dict[str, torch.Tensor] | None = None,
) -> Backbone:
    """Load weights, set the image size of timm's towers, and wrap the model.

    Args:
        spec: of the backbone, with the image size.
        model: open_clip model.
        tokenizer: of the model.
        weights: file to load; None for random weights.
        state: tensors of that file under open_clip's names, if they were read and converted already.

    Raises:
        UserError: weights that do not fit; a tower that takes images of one size only.
    """
    size = split_size(spec)[1]
    if weights is not None and state is not None:
        load_state(model, state, weights, resize=size is not None)
    elif weights is not None:
        load_weights(model, weights, resize=size is not None)
    if size is not None and hasattr(model.visual, "trunk"):
        try:
            model.visual.set_input_size(size)
        except Exception as error:
            raise UserError(
                f"--backbone {spec}: this image tower cannot change its image size ({first_line(error)}); "
                f"drop the @{size}"
            ) from error
    return Backbone(model, tokenizer, spec)
