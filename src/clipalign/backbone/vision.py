"""The kinds of image towers, which have the same functions."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol

import open_clip.modified_resnet
import open_clip.transformer
from torch import Tensor, nn

from ..core.errors import UserError
from . import other, resnet, vit
from .dense import DenseFeatures, DenseOptions
from .families import Capability, Kind
from .hooks import Hooks
from .trace import Trace


class VisionModule(Protocol):
    """The functions of `vit`, `timm_vit`, `pooled_vit`, `resnet` and `other`; `visual` is the open_clip tower."""

    def check(self, visual: Any) -> None: ...

    def layout(self, visual: Any) -> tuple[int, tuple[int, int]]: ...

    def num_layers(self, visual: Any) -> int: ...

    def width(self, visual: Any) -> int: ...

    def capabilities(self, visual: Any) -> frozenset[Capability]: ...

    def encode(self, visual: Any, images: Tensor, hooks: Hooks) -> Tensor: ...

    def dense(self, visual: Any, images: Tensor, options: DenseOptions, hooks: Hooks) -> DenseFeatures: ...

    def trace(self, visual: Any, images: Tensor, hooks: Hooks) -> Trace: ...


def vision_module(kind: Kind) -> VisionModule:
    """Return the functions of a kind of image tower; timm is imported only for its own towers."""
    modules: dict[Kind, VisionModule] = {"vit": vit, "resnet": resnet, "other": other}
    return modules[kind] if kind in modules else import_module(f".{kind.replace('-', '_')}", __package__)


def kind_of(visual: Any) -> Kind:
    """Return the kind of an open_clip image tower.

    Raises:
        UserError: it is a ViT with a class token or a ResNet, but not as open_clip computes them.
    """
    if isinstance(visual, open_clip.modified_resnet.ModifiedResNet):
        resnet.check(visual)
        return "resnet"
    is_vit = isinstance(visual, open_clip.transformer.VisionTransformer)
    if is_vit and visual.attn_pool is None and visual.pool_type == "tok" and visual.proj is not None:
        vit.check(visual)
        return "vit"
    candidates: tuple[Kind, ...] = ()
    if is_vit and visual.attn_pool is not None:
        candidates = ("pooled-vit",)
    elif hasattr(visual, "trunk"):
        candidates = ("timm-vit", "pooled-vit")
    for kind in candidates:
        try:
            vision_module(kind).check(visual)
        except UserError:
            continue  # its features do not need the parts that differ
        return kind
    return "other"


def embed_dim(visual: Any) -> int:
    """Return the dimension of the image features."""
    if hasattr(visual, "output_dim"):
        return int(visual.output_dim)
    for module in reversed([*visual.head.modules()]):
        if isinstance(module, nn.Linear):
            return module.out_features
    trunk = visual.trunk  # open_clip's TimmModel without a projection of its own
    return int(trunk.num_classes or getattr(trunk, "head_hidden_size", trunk.num_features))
