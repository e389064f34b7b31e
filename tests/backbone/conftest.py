"""Small towers with every parameter random: a forgotten bias or gain would show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import open_clip
import pytest
import torch

from clipalign.backbone import Backbone

VISION = {"image_size": (24, 32), "patch_size": 8, "layers": 4, "width": 32, "head_width": 8}
RESNET = {"image_size": 96, "layers": (1, 1, 1, 1), "width": 8, "head_width": 64}
TEXT = {"context_length": 20, "vocab_size": 49408, "width": 24, "heads": 3, "layers": 2}

MakeBackbone = Callable[..., Backbone]


def build(
    vision: dict[str, Any] | None = None,
    text: dict[str, Any] | None = None,
    base: dict[str, Any] = VISION,
    custom_text: bool = False,
    **options: Any,
) -> Any:
    """A tiny open_clip model whose parameters are all random, seeded, in evaluation mode."""
    kind = open_clip.CustomTextCLIP if custom_text else open_clip.CLIP
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vision, text = {**base, **(vision or {})}, {**TEXT, **(text or {})}
        model = kind(16, open_clip.CLIPVisionCfg(**vision), open_clip.CLIPTextCfg(**text), **options)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim():
                    parameter.add_(0.1 * torch.randn_like(parameter))
    open_clip.set_model_preprocess_cfg(model, {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)})
    return model.eval()


def wrap(model: Any) -> Backbone:
    return Backbone(model, open_clip.SimpleTokenizer(context_length=TEXT["context_length"]), "tiny")


@pytest.fixture
def make() -> MakeBackbone:
    """A fresh tiny backbone; arguments as `build`."""
    return lambda *args, **kwargs: wrap(build(*args, **kwargs))


@pytest.fixture
def resnet() -> Backbone:
    """A fresh tiny ModifiedResNet with 3 x 3 cells."""
    return wrap(build(base=RESNET))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(3, 3, 24, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def square_images() -> torch.Tensor:
    return torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
