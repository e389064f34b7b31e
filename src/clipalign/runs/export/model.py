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

from ...backbone import Backbone, pocket
from ...backbone.loading import split_size
from ...core.errors import UserError
from ...core.types import Preprocess

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
    """What a model says of the probe.

    Attributes:
        images: unit features [n, d]; None where images are not asked about.
        texts: unit features [m, d].
        states: [blocks + 1, tokens, W] of the text tower: tokens of all texts behind each block, and behind the
            final layer norm; None where they are not asked about.
    """

    images: Tensor | None
    texts: Tensor
    states: Tensor | None = None

    @classmethod
    def of(cls, images: Tensor | None, texts: Tensor, states: Tensor | None = None) -> Features:
        """Normalise raw features."""
        unit = None if images is None else F.normalize(images.float(), dim=-1)
        return cls(unit, F.normalize(texts.float(), dim=-1), states)

    def difference(self, other: Features) -> dict[str, float]:
        """Largest absolute difference of an entry, of "images" and "texts"; of "hidden states" over the largest
        entry behind the same block."""
        found = {"texts": float((self.texts - other.texts).abs().max())}
        if self.images is not None and other.images is not None:
            found = {"images": float((self.images - other.images).abs().max()), **found}
        if self.states is not None and other.states is not None:
            apart = (self.states - other.states).abs().flatten(1).amax(dim=1)
            found["hidden states"] = float((apart / self.states.abs().flatten(1).amax(dim=1)).max())
        return found


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
    """The open_clip configuration that a backbone was built from, with the activation, the image size and the
    number of text positions that it has now.

    Raises:
        UserError: the configuration is not at hand any more.
    """
    backbone = model.backbone
    spec = split_size(backbone.spec)[0]
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
    height, width = backbone.image_size
    config["vision_cfg"]["image_size"] = height if height == width else [height, width]
    config["text_cfg"]["context_length"] = backbone.context_length
    return config


def same_or_raise(ours: Features, theirs: Features, library: str) -> dict[str, float]:
    """The largest differences between two models' features; see `Features.difference`.

    Raises:
        UserError: they are not the same model.
    """
    found = ours.difference(theirs)
    if not all(value <= LARGEST for value in found.values()):
        raise UserError(
            f"{library} computes other features from the exported model (largest difference of unit features: "
            f"{spelt(found, '.2g')}); nothing was written"
        )
    return found


def spelt(differences: dict[str, float], form: str) -> str:
    """ "images 1e-07, texts 2e-07"."""
    return ", ".join(f"{name} {value:{form}}" for name, value in differences.items())
