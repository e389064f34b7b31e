"""The supported kinds of vision towers, `vit` and `resnet`, which have the same functions."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import open_clip.modified_resnet
import open_clip.transformer
from torch import Tensor

from ..core.errors import UserError
from . import resnet, vit
from .dense import DenseFeatures, DenseOptions
from .hooks import Hooks
from .trace import Trace

Kind = Literal["vit", "resnet"]


class VisionModule(Protocol):
    """The functions of `vit` and `resnet`; `visual` is the open_clip tower."""

    def check(self, visual: Any) -> None: ...

    def layout(self, visual: Any) -> tuple[int, tuple[int, int]]: ...

    def encode(self, visual: Any, images: Tensor, hooks: Hooks) -> Tensor: ...

    def dense(self, visual: Any, images: Tensor, options: DenseOptions, hooks: Hooks) -> DenseFeatures: ...

    def trace(self, visual: Any, images: Tensor, hooks: Hooks) -> Trace: ...


MODULES: dict[Kind, VisionModule] = {"vit": vit, "resnet": resnet}


def kind_of(visual: Any, spec: str) -> Kind:
    """Return the kind of an open_clip vision tower; `spec` names the backbone in the message.

    Raises:
        UserError: it is neither a VisionTransformer nor a ModifiedResNet.
    """
    if isinstance(visual, open_clip.transformer.VisionTransformer):
        return "vit"
    if isinstance(visual, open_clip.modified_resnet.ModifiedResNet):
        return "resnet"
    raise UserError(
        f'backbone "{spec}": its vision tower ({type(visual).__name__}) is not supported; '
        "clipalign needs open_clip's VisionTransformer or ModifiedResNet"
    )
