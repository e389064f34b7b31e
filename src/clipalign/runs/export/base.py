"""The contract of an export format, and the comparison that every export has to pass."""

from __future__ import annotations

import copy
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import open_clip
import torch
from open_clip.pretrained import download_pretrained_from_hf
from open_clip.transformer import QuickGELU
from torch import Tensor

from ...backbone import Backbone, pocket
from ...backbone.huggingface import open_clip_config
from ...backbone.loading import split_size
from ...core.errors import UserError
from ...core.types import Preprocess
from ...losses import unit_features
from ...methods import Method

TOLERANCE = 1e-3  # on entries of L2-normalised features; float32 sums in another order differ by about 1e-6
LONG_TEXT = "a long text " * 40  # exceeds the window of every text tower, so that truncation is compared too


@dataclass(frozen=True)
class ExportedModel:
    """A model to export.

    Attributes:
        backbone: float32, on the CPU.
        preprocess: preprocessing of evaluation images.
        state: tensors of the method; those of the backbone have open_clip's names.
        cache_dir: folder of downloaded files.
    """

    backbone: Backbone
    preprocess: Preprocess
    state: dict[str, Tensor]
    cache_dir: str | None = None


@dataclass(frozen=True)
class Features:
    """Features of the probe, as one of the two libraries computes them.

    Attributes:
        images: [n, d], L2-normalised; None if the format has no image tower.
        texts: [m, d], L2-normalised.
        states: [blocks + 1, tokens, W] hidden states of the text tower: after each block, and after the final layer
            norm, for the tokens of all texts; None if the format does not compare them.
    """

    images: Tensor | None
    texts: Tensor
    states: Tensor | None = None

    @classmethod
    def of(cls, images: Tensor | None, texts: Tensor, states: Tensor | None = None) -> Features:
        """Normalise the features of towers."""
        images = None if images is None else unit_features(images)
        return cls(images, unit_features(texts), states)

    def difference(self, other: Features) -> dict[str, float]:
        """Return the largest absolute difference of "images" and "texts".

        That of "hidden states" is relative to the largest entry after the same block.
        """
        largest = {"texts": float((self.texts - other.texts).abs().max())}
        if self.images is not None and other.images is not None:
            largest = {"images": float((self.images - other.images).abs().max()), **largest}
        if self.states is not None and other.states is not None:
            apart = (self.states - other.states).abs().flatten(1).amax(dim=1)  # [blocks + 1]
            scale = self.states.abs().flatten(1).amax(dim=1)  # [blocks + 1]
            largest["hidden states"] = float((apart / scale).max())
        return largest


@dataclass(frozen=True)
class Probe:
    """Inputs on which the exported model is compared with the original.

    Attributes:
        images: [n, 3, H, W], normalised noise: needs no file, and every pixel affects the features.
        texts: class prompts, and a text longer than the window of the text tower.
    """

    images: Tensor
    texts: tuple[str, ...]

    @classmethod
    def draw(cls, backbone: Backbone, prompts: Sequence[str]) -> Probe:
        """Draw five images and take up to sixteen of the prompts."""
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(5, 3, *backbone.image_size, generator=generator)  # [5, 3, H, W]
        return cls(images, (*list(prompts)[:16], "a photo of two dogs, and a cat's toy!", LONG_TEXT))

    @torch.no_grad()
    def features(self, backbone: Backbone) -> Features:
        """Return the features of a backbone."""
        tokens = backbone.tokenize(self.texts).ids
        return Features.of(backbone.encode_image(self.images), backbone.encode_text(tokens))


class ExportFormat(ABC):
    """A format of another library.

    `clipalign export` calls `write`, reads the folder back with `read`, compares the result with `features`, and keeps
    the folder only if they agree.

    Attributes:
        library: name of the library that loads the format.
        summary: one line for users.
        text_only: whether the format holds only the text tower; it then comes without a classifier.
        all_tensors: whether the format holds the method's own tensors, next to those of the towers.
    """

    library: ClassVar[str]
    summary: ClassVar[str]
    text_only: ClassVar[bool] = False
    all_tensors: ClassVar[bool] = False

    @abstractmethod
    def write(self, model: ExportedModel, folder: Path) -> None:
        """Write the model to an empty folder.

        Raises:
            UserError: a package is missing, or the format cannot hold this model.
        """

    @abstractmethod
    def read(self, folder: Path, probe: Probe) -> Features:
        """Return the features of the probe as the other library computes them from the folder."""

    @abstractmethod
    def usage(self, folder: Path) -> str:
        """Return code that loads the folder."""

    def features(self, backbone: Backbone, probe: Probe) -> Features:
        """Return the features that `read` has to reproduce."""
        return probe.features(backbone)

    def notes(self, method: Method) -> list[str]:
        """Return lines to print after the export, such as what the format leaves out."""
        return []

    def write_card(self, method: Method, folder: Path) -> None:  # noqa: B027 - optional
        """Extend README.md, which is the card of the run if there is one."""


def model_config(model: ExportedModel) -> dict[str, Any]:
    """Return the open_clip configuration of a backbone as it is now.

    Activation, image size and number of text positions may differ from the configuration it was built from.

    Raises:
        UserError: that configuration is not available any more.
    """
    backbone = model.backbone
    spec = split_size(backbone.spec)[0]
    kind, _, location = spec.partition(":")
    if kind in ("hf-hub", "local-dir") and location:
        name = "open_clip_config.json"
        try:
            if kind == "local-dir":
                file = Path(location).expanduser() / name
            else:
                file = Path(download_pretrained_from_hf(location, name, cache_dir=model.cache_dir))
            config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["model_cfg"]
        except Exception as error:  # of the hub, the file system or JSON
            raise UserError(f"cannot read the open_clip configuration of {spec} ({error})") from None
    elif kind == "hf" and location:
        config = open_clip_config(spec, location, model.cache_dir)
        if hasattr(backbone.tokenizer, "tokenizer"):  # of transformers, which the exported folder holds
            config["text_cfg"]["hf_tokenizer_name"] = "local"
    else:
        known = open_clip.get_model_config(pocket.ARCHITECTURE if kind == "pocket" else kind)
        if known is None:
            raise UserError(f"this version of open_clip has no architecture {kind}")
        config = copy.deepcopy(known)
    if any(isinstance(module, QuickGELU) for module in backbone.model.modules()):
        config["quick_gelu"] = True
    height, width = backbone.image_size
    config["vision_cfg"]["image_size"] = height if height == width else [height, width]
    config["text_cfg"]["context_length"] = backbone.context_length
    return config


def check_features(original: Features, exported: Features, library: str) -> dict[str, float]:
    """Return the largest differences between the features of two models; see `Features.difference`.

    Raises:
        UserError: they exceed `TOLERANCE`.
    """
    differences = original.difference(exported)
    if not all(value <= TOLERANCE for value in differences.values()):
        raise UserError(
            f"{library} computes other features from the exported model (largest difference of L2-normalised "
            f"features: {format_differences(differences, '.2g')}); nothing was written"
        )
    return differences


def format_differences(differences: Mapping[str, float], spec: str) -> str:
    """Join differences into one line.

    >>> format_differences({"images": 1e-7, "texts": 2.5e-7}, ".1e")
    'images 1.0e-07, texts 2.5e-07'
    """
    return ", ".join(f"{name} {value:{spec}}" for name, value in differences.items())
