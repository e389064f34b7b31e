"""Hooks between the blocks of both towers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from clipalign.backbone import Backbone

MakeBackbone = Callable[..., Backbone]


def test_taps_receive_the_output_of_every_block_of_both_towers(make: MakeBackbone, images: Tensor) -> None:
    backbone = make()
    seen: dict[tuple[str, int], Tensor] = {}
    tokens = backbone.tokenizer(["a cat", "two words more"])
    with backbone.hooks(tap=lambda tower, block, x: seen.__setitem__((tower, block), x)):
        backbone.encode_image(images)
        backbone.encode_text(tokens)
    expected = backbone.model.forward_intermediates(
        images, tokens, intermediates_only=True, image_output_fmt="NLC", image_output_extra_tokens=True
    )
    assert set(seen) == {("vision", i) for i in range(-1, 4)} | {("text", 0), ("text", 1)}
    for i in range(4):
        torch.testing.assert_close(seen["vision", i][:, 1:], expected["image_intermediates"][i])
        torch.testing.assert_close(seen["vision", i][:, :1], expected["image_intermediates_prefix"][i])
    stem = backbone.model.visual.conv1(images).flatten(2).transpose(1, 2)
    torch.testing.assert_close(seen["vision", -1], stem)
    for i in range(2):
        output = seen["text", i]
        torch.testing.assert_close(output, expected["text_intermediates"][i][:, : output.shape[1]])
    dense: dict[int, Tensor] = {}
    with backbone.hooks(tap=lambda tower, block, x: dense.__setitem__(block, x)):
        backbone.dense(images, [1], "vvv", 2)
    for i in range(-1, 4):
        torch.testing.assert_close(dense[i], seen["vision", i])


def test_vision_hooks_run_before_their_block(make: MakeBackbone, images: Tensor) -> None:
    backbone = make()
    visual, order = backbone.model.visual, []
    ramp = torch.linspace(-1, 1, 32)  # LayerNorm would remove a constant

    def shift(block: int, x: Tensor) -> Tensor:
        order.append(block)
        return x + block * ramp

    with backbone.hooks(vision=shift, vision_input=lambda x: 1.5 * x):
        actual = backbone.encode_image(images)
        dense = backbone.dense(images, [0], "dv", 2)
    assert order == [0, 1, 2, 3] * 2
    # The same without hooks: scale the input of the first norm, then shift that of every block.
    x = torch.cat([visual.class_embedding.expand(3, 1, -1), visual.conv1(images).flatten(2).mT], dim=1)
    x = visual.ln_pre(1.5 * (x + visual.positional_embedding))
    for i, block in enumerate(visual.transformer.resblocks):
        x = block(x + i * ramp)
    expected = visual.ln_post(x[:, 0]) @ visual.proj
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(dense.image, expected)
    assert not torch.allclose(expected, backbone.encode_image(images), atol=1e-2)


def test_text_hooks_change_features_and_pass_gradients(make: MakeBackbone) -> None:
    backbone = make()
    prompt = torch.nn.Parameter(torch.randn(2, 24))

    def deep_prompt(block: int, x: Tensor) -> Tensor:
        return torch.cat([x[:, :1], prompt.expand(len(x), -1, -1), x[:, 3:]], dim=1) if block == 1 else x

    plain = backbone.encode_text(["a photo of a cat", "a photo of dogs"])
    with backbone.hooks(text=deep_prompt):
        prompted = backbone.encode_text(["a photo of a cat", "a photo of dogs"])
    assert (plain - prompted).abs().max() > 1e-3
    prompted.sum().backward()
    assert prompt.grad is not None and prompt.grad.abs().sum() > 0


def test_visual_prompts_after_the_patches_are_not_returned_as_patches(
    make: MakeBackbone, images: Tensor
) -> None:
    backbone = make()
    prompts = torch.randn(2, 32)

    def append(x: Tensor) -> Tensor:
        return torch.cat([x, prompts.expand(len(x), -1, -1)], dim=1)

    def overwrite(block: int, x: Tensor) -> Tensor:
        return torch.cat([x[:, :-2], (block + 1) * prompts.expand(len(x), -1, -1)], dim=1) if block else x

    with backbone.hooks(vision_input=append, vision=overwrite):
        image = backbone.encode_image(images)
        dense = backbone.dense(images, [0, 3], "vvv", 2)
    torch.testing.assert_close(dense.image, image)
    assert (image - backbone.encode_image(images)).abs().max() > 1e-3
    assert dense.patches.shape == (3, 12, 16) and dense.cls_attention.shape == (2, 3, 12)
    assert dense.guide is not None and dense.guide.shape == (3, 12, 16)
    torch.testing.assert_close(dense.cls_attention.sum(-1), torch.ones(2, 3))


def test_hooks_are_removed_after_the_with_statement(make: MakeBackbone, images: Tensor) -> None:
    backbone = make()
    plain = backbone.encode_image(images)
    with backbone.hooks(vision=lambda block, x: 0 * x):
        with backbone.hooks():
            torch.testing.assert_close(backbone.encode_image(images), plain)
        assert not torch.allclose(backbone.encode_image(images), plain)
    with pytest.raises(RuntimeError, match="inside"), backbone.hooks(vision=lambda block, x: 0 * x):
        raise RuntimeError("inside")
    torch.testing.assert_close(backbone.encode_image(images), plain)
