"""Backbones with noise in every parameter, and images of their size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import open_clip
import pytest
import torch

from clipalign.backbone import Backbone, pocket, slip
from tests.helpers.backbones import RESNET, build_clip, wrap
from tests.helpers.weights import ARCHITECTURE

# Not square, so that an exchange of height and width shows.
VISION = {"image_size": (24, 32), "layers": 4, "head_width": 8}
TEXT = {"context_length": 20, "heads": 3, "layers": 2}

MakeBackbone = Callable[..., Backbone]


def build(
    vision: dict[str, Any] | None = None, text: dict[str, Any] | None = None, **options: Any
) -> Backbone:
    """Return a backbone with `VISION`, `TEXT` and noise; arguments as `build_clip`."""
    vision, text = {**VISION, **(vision or {})}, {**TEXT, **(text or {})}
    return wrap(build_clip(vision, text, embed_dim=16, noise=0.1, **options))


@pytest.fixture
def make() -> MakeBackbone:
    """Builder of new backbones; arguments as `build`."""
    return build


@pytest.fixture
def resnet() -> Backbone:
    """A new ModifiedResNet with a 3 x 3 feature map."""
    return build(vision={**RESNET, "image_size": 96, "head_width": 64})


@pytest.fixture
def images() -> torch.Tensor:
    """[3, 3, 24, 32]"""
    return torch.randn(3, 3, 24, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def square_images() -> torch.Tensor:
    """[2, 3, 96, 96]"""
    return torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def tiny_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the architectures "tiny" and "tiny-quickgelu" with open_clip for one test."""
    pocket.register()  # rescans the registry, which would drop those added before
    slip.register()
    configs = open_clip.factory._MODEL_CONFIGS
    monkeypatch.setitem(configs, "tiny", ARCHITECTURE)
    monkeypatch.setitem(configs, "tiny-quickgelu", {**ARCHITECTURE, "quick_gelu": True})
