"""Maps of backbones and methods, compared with slow forms of their definitions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from clipalign.backbone import Backbone, load
from clipalign.core.errors import UserError
from clipalign.evaluation.maps import (
    attention_maps,
    encode_texts,
    remove_redundancy,
    rollout_maps,
    similarity_maps,
    trace,
)
from clipalign.methods import get_method
from tests.helpers.prompts import NAMES, backbone, ready

TEXTS = ["red square", "a bell", "grass"]


def random_images(model: Backbone, count: int = 2) -> Tensor:
    return torch.randn(count, 3, *model.image_size, generator=torch.Generator().manual_seed(0))


def unit(*shape: int, seed: int = 0) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double(), dim=-1)


def surgery_loop(patches: Tensor, image: Tensor, text: Tensor) -> Tensor:
    """CLIP Surgery as published: weighted products of channels, minus their mean over texts, summed."""
    maps = torch.empty(len(patches), len(text), patches.shape[1], dtype=torch.float64)
    for b in range(len(patches)):
        match = torch.tensor([2 * float(image[b] @ t) for t in text], dtype=torch.float64).softmax(dim=0)
        weights = match / match.mean()
        for i in range(patches.shape[1]):
            products = [w * patches[b, i] * t for w, t in zip(weights, text, strict=True)]  # T x [d]
            shared = sum(products) / len(products)
            for k, product in enumerate(products):
                maps[b, k, i] = (product - shared).sum()
    return maps


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 6), st.integers(2, 5), st.integers(1, 9), st.integers(0, 99))
def test_redundancy_removal_equals_the_loop_over_channels(
    images: int, patches: int, texts: int, size: int, seed: int
) -> None:
    tokens, image, text = unit(images, patches, size, seed=seed), unit(images, size), unit(texts, size)
    actual = remove_redundancy(tokens, image, text)
    torch.testing.assert_close(
        actual, surgery_loop(tokens, image, text).to(actual.dtype), atol=1e-5, rtol=1e-4
    )
    torch.testing.assert_close(actual.sum(dim=1), torch.zeros(images, patches).to(actual), atol=1e-5, rtol=0)


def test_redundancy_removal_accepts_texts_per_image() -> None:
    tokens, image, text = unit(2, 3, 4), unit(2, 4), unit(5, 4)
    expected = remove_redundancy(tokens, image, text)
    torch.testing.assert_close(remove_redundancy(tokens, image, text.expand(2, 5, 4)), expected)


@pytest.mark.parametrize("kind", ["tiny_spec", "resnet_spec"])
def test_similarity_maps_are_cosines_on_the_grid(kind: str, request: pytest.FixtureRequest) -> None:
    model = load(request.getfixturevalue(kind))
    images = random_images(model)
    with torch.no_grad():
        text = F.normalize(model.encode_text(TEXTS), dim=-1)
        dense = model.dense(images, (), "vvv")
    columns = model.grid[1]
    for structure, tokens in (("vvv", dense.guide), ("patches", dense.patches)):
        maps = similarity_maps(model, images, TEXTS, structure)
        assert maps.shape == (2, 3, *model.grid) and maps.dtype == torch.float32
        assert tokens is not None
        for b, k, i in ((0, 0, 0), (1, 2, 3), (1, 1, 1)):
            expected = F.cosine_similarity(tokens[b, i], text[k], dim=0)
            torch.testing.assert_close(maps[b, k, i // columns, i % columns], expected, atol=1e-5, rtol=1e-4)


def test_one_trace_serves_all_maps(tiny: Backbone) -> None:
    images = random_images(tiny)
    traced = trace(tiny, images)
    for options in ({"structure": "dv", "layers": [-1]}, {"structure": "qqv", "heads": [0]}):
        again = similarity_maps(tiny, images, TEXTS, **options)
        torch.testing.assert_close(similarity_maps(traced, None, TEXTS, **options), again)
    for function in (attention_maps, rollout_maps):
        maps = function(traced, layers=[0, 1])
        torch.testing.assert_close(maps, function(tiny, images, layers=[0, 1]))
        torch.testing.assert_close(maps.sum(dim=(1, 2)), torch.ones(2))


def test_maps_keep_hooks_of_the_caller(tiny: Backbone) -> None:
    images = random_images(tiny)
    with tiny.hooks(vision=lambda block, tokens: tokens.roll(block, 2)):
        hooked = attention_maps(tiny, images, layers=[2])
    assert not torch.allclose(hooked, attention_maps(tiny, images, layers=[2]), atol=1e-5)


@pytest.mark.parametrize("name", ["maple", "cocoop", "erm"])
def test_maps_of_methods_use_their_prompts(name: str) -> None:
    method = ready(get_method(name), backbone(vision_layers=6))
    with torch.no_grad():
        for parameter in method.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    images = random_images(method.backbone, 3)
    maps = similarity_maps(method, images, NAMES)
    one = similarity_maps(method, images[1:2], NAMES)  # prompts of cocoop depend on the image
    torch.testing.assert_close(maps[1], one[0], atol=1e-5, rtol=1e-4)
    assert encode_texts(method, NAMES, images).dim() == (2 if name == "erm" else 3)
    plain = similarity_maps(method.backbone, images, NAMES)
    assert torch.allclose(maps, plain, atol=1e-4) == (name == "erm")
    if name == "maple":  # prompts inside the tower
        own, bare = (attention_maps(model, images, layers=[-1]) for model in (method, method.backbone))
        assert own.shape == bare.shape and not torch.allclose(own, bare, atol=1e-4)
        torch.testing.assert_close(rollout_maps(method, images).sum(dim=(1, 2)), torch.ones(3))


def test_invalid_choices_raise(tiny: Backbone) -> None:
    images = random_images(tiny)
    with pytest.raises(UserError, match="at least two texts"):
        similarity_maps(tiny, images, ["a bell"], redundancy_removal=True)
    with pytest.raises(UserError, match="ordinary path"):
        similarity_maps(tiny, images, TEXTS, "patches", layers=[0])
    with pytest.raises(UserError, match="images of 8 x 8"):
        attention_maps(tiny, images[..., :8, :8])
