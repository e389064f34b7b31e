"""What every format starts from, and what it is held to."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from open_clip.pretrained import download_pretrained_from_hf
from open_clip.transformer import QuickGELU
from torch import Tensor

from ..backbone import Backbone, pocket
from ..data.base import Preprocess
from ..errors import UserError

LARGEST = 1e-3  # allowed difference between unit features; float32 sums in another order differ by some 1e-6
LONG = "a long text " * 40  # more tokens than any tower has, so that cutting is compared too


@dataclass(frozen=True)
class Exported:
    """A model to be written.

    Attributes:
        backbone: float32, on the CPU.
        preprocess: what evaluation did with images.
        state: every tensor of the method, the backbone's under open_clip's names.
        cache_dir: folder of downloaded files.
    """

    backbone: Backbone
    preprocess: Preprocess
    state: dict[str, Tensor]
    cache_dir: str | None = None


@dataclass(frozen=True)
class Features:
    """Unit features of the probe: images [n, d], texts [m, d]."""

    images: Tensor
    texts: Tensor

    @classmethod
    def of(cls, images: Tensor, texts: Tensor) -> Features:
        """Normalise raw features."""
        return cls(F.normalize(images.float(), dim=-1), F.normalize(texts.float(), dim=-1))

    def difference(self, other: Features) -> tuple[float, float]:
        """Largest absolute difference of an entry, of images and of texts."""
        return (
            float((self.images - other.images).abs().max()),
            float((self.texts - other.texts).abs().max()),
        )


@dataclass(frozen=True)
class Probe:
    """What both models are asked.

    Attributes:
        images: [n, 3, H, W] normalised; noise, so that no file is needed and every pixel counts.
        texts: prompts of classes, and one that is too long for the tower.
    """

    images: Tensor
    texts: tuple[str, ...]

    @classmethod
    def draw(cls, backbone: Backbone, prompts: Sequence[str]) -> Probe:
        """Five images and up to sixteen prompts."""
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(5, 3, *backbone.image_size, generator=generator)
        return cls(images, (*list(prompts)[:16], "a photo of two dogs, and a cat's toy!", LONG))

    @torch.no_grad()
    def ask(self, backbone: Backbone) -> Features:
        """Features of the model that is exported."""
        tokens = backbone.tokenize(self.texts).ids
        return Features.of(backbone.encode_image(self.images), backbone.encode_text(tokens))


def model_config(model: Exported) -> dict[str, Any]:
    """The open_clip configuration that a backbone was built from, with the activation that it has.

    Raises:
        UserError: the configuration is not at hand any more.
    """
    backbone = model.backbone
    spec = backbone.spec
    if spec.startswith(("hf-hub:", "local-dir:")):
        kind, _, place = spec.partition(":")
        try:
            file = (
                Path(place).expanduser() / "open_clip_config.json"
                if kind == "local-dir"
                else Path(
                    download_pretrained_from_hf(place, "open_clip_config.json", cache_dir=model.cache_dir)
                )
            )
            config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["model_cfg"]
        except Exception as error:
            raise UserError(f"cannot read the open_clip configuration of {spec} again ({error})") from None
    else:
        name = spec.partition(":")[0]
        found = open_clip.get_model_config(pocket.ARCHITECTURE if name == "pocket" else name)
        if found is None:
            raise UserError(f"open_clip does not know the architecture of {spec} any more")
        config = copy.deepcopy(found)
    if any(isinstance(module, QuickGELU) for module in backbone.model.modules()):
        config["quick_gelu"] = True
    return config


def same_or_raise(ours: Features, theirs: Features, library: str) -> tuple[float, float]:
    """The largest differences between two models' features.

    Raises:
        UserError: they are not the same model.
    """
    images, texts = ours.difference(theirs)
    if not max(images, texts) <= LARGEST:
        raise UserError(
            f"{library} computes other features from the exported model (largest difference of unit features: "
            f"images {images:.2g}, texts {texts:.2g}); nothing was written"
        )
    return images, texts
