"""Maps over the patches of images: similarity to texts in any attention structure, class attention and rollout.

    similarity_maps(model, images, ["a dog", "grass"], "dv")  # [B, T, gh, gw]
    attention_maps(model, images, layers=[0, 1])              # [B, gh, gw]
    rollout_maps(model, images)                               # [B, gh, gw]

Each function runs the vision tower once. For several maps of the same images, run it once with `trace` and pass the
result in place of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..backbone import Backbone
from ..backbone.attention import AttentionOver
from ..backbone.text.features import text_features
from ..backbone.trace import Trace
from ..core.errors import UserError
from ..core.full_precision import full_precision
from ..losses import unit_features
from ..methods.capabilities import SupportsExplain, SupportsHooks

if TYPE_CHECKING:
    from ..methods import Method

PATCHES = "patches"  # in place of a structure: the tokens of the ordinary path, MLPs included
SURGERY_SCALE = 2.0  # factor of the cosines in CLIP Surgery's weights


@dataclass(frozen=True)
class TracedImages:
    """One pass of a model over images; takes the place of the model in the functions below.

    Attributes:
        model: backbone, or method whose prompts inside the tower were active.
        images: [B, 3, H, W].
        trace: queries, keys and values of every layer.
    """

    model: Backbone | Method
    images: Tensor
    trace: Trace

    @property
    def backbone(self) -> Backbone:
        """The backbone of the model."""
        return self.model if isinstance(self.model, Backbone) else self.model.backbone

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches, gh and gw."""
        return self.backbone.grid


@torch.no_grad()
def trace(model: Backbone | Method, images: Tensor) -> TracedImages:
    """Run the vision tower once, with the prompts that a method inserts into it.

    Args:
        model: backbone or method.
        images: [B, 3, H, W], normalised for the backbone; moved to its device.
    """
    if isinstance(model, Backbone):
        return TracedImages(model, images.to(model.device), model.trace(images.to(model.device)))
    images = images.to(model.backbone.device)
    with model.hooks() if isinstance(model, SupportsHooks) else nullcontext():
        return TracedImages(model, images, model.backbone.trace(images))


@torch.no_grad()
def similarity_maps(
    model: Backbone | Method | TracedImages,
    images: Tensor | None,
    texts: Sequence[str] | Tensor,
    structure: str = "dv",
    *,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    keep_mlp: bool = False,
    redundancy_removal: bool = False,
) -> Tensor:
    """Return the cosines of patch tokens and texts.

    Args:
        model: backbone, method, or the result of `trace`.
        images: [B, 3, H, W], normalised; None for a result of `trace`.
        texts: T texts, encoded as the method does, prompts included (see `encode_texts`); or their L2-normalised
            features, [T, d] or [B, T, d].
        structure: attention structure of the second path, by name: "dv", "vvv", "qqv", "kkv", "qkv" and the others of
            `backbone.attention.STRUCTURES`; or "patches" for the tokens of the ordinary path, which has no choice of
            layers and heads.
        layers: layers of the second path, from 0 (negative: from the end). Default: the last half, as AlignCLIP.
        heads: heads that contribute. Default: all.
        keep_mlp: apply the MLPs of the layers in the second path.
        redundancy_removal: subtract what all texts share, see `remove_redundancy`.

    Returns:
        [B, T, gh, gw] float32 on the CPU: cosines in [-1, 1], or differences of weighted cosines with
        `redundancy_removal`.

    Raises:
        UserError: an unknown structure, layer or head; `redundancy_removal` with a single text.
    """
    traced = _traced(model, images)
    if structure == PATCHES:
        if layers is not None or heads is not None:
            raise UserError(
                'structure "patches" is the ordinary path of all layers and heads; choose another one'
            )
        tokens = traced.trace.patches  # [B, M, d]
    else:
        tokens = traced.trace.patch_features(structure, layers, heads, keep_mlp=keep_mlp)  # [B, M, d]
    text = texts if isinstance(texts, Tensor) else encode_texts(traced.model, texts, traced.images)
    text = text.to(tokens.device)
    patches = unit_features(tokens)  # [B, M, d]
    if redundancy_removal:
        maps = remove_redundancy(patches, unit_features(traced.trace.image), text)  # [B, T, M]
    else:
        maps = cosines(patches, text)  # [B, T, M]
    return maps.unflatten(-1, traced.grid).cpu()  # [B, T, gh, gw]


@torch.no_grad()
def attention_maps(
    model: Backbone | Method | TracedImages,
    images: Tensor | None = None,
    *,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    over: AttentionOver = "patches",
) -> Tensor:
    """Return the class token's attention over the patches, averaged over layers and heads.

    In a ResNet, the query is the mean of the cells of the last feature map.

    Args:
        model: backbone, method, or the result of `trace`.
        images: [B, 3, H, W], normalised; None for a result of `trace`.
        layers: layers, from 0 (negative: from the end). Default: all.
        heads: heads. Default: all.
        over: softmax over the "patches" (AlignCLIP, equation 3) or over all "tokens" (its released code).

    Returns:
        [B, gh, gw] float32 on the CPU; each map sums to 1.

    Raises:
        UserError: an unknown layer or head.
    """
    traced = _traced(model, images)
    attention = traced.trace.class_attention(layers, heads, over).float()  # [B, M]
    return attention.unflatten(-1, traced.grid).cpu()  # [B, gh, gw]


@torch.no_grad()
def rollout_maps(
    model: Backbone | Method | TracedImages,
    images: Tensor | None = None,
    *,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
) -> Tensor:
    """Return the attention rollout from the class token to the patches (see `backbone.attention.rollout`).

    Arguments and result are those of `attention_maps`.
    """
    traced = _traced(model, images)
    return traced.trace.rollout(layers, heads).float().unflatten(-1, traced.grid).cpu()  # [B, gh, gw]


def encode_texts(model: Backbone | Method, texts: Sequence[str], images: Tensor) -> Tensor:
    """Return L2-normalised features of texts, encoded without a template, as the maps compare them with images.

    Args:
        model: backbone or method. Prompt learners put their learned context around the texts.
        texts: T texts; a warning reports those that are longer than the context length and are cut.
        images: [B, 3, H, W], for prompts that depend on the image.

    Returns:
        [T, d]; [B, T, d] for methods with learned prompts.
    """
    if isinstance(model, SupportsExplain):
        return torch.stack([model.explain_text_features(texts, image[None]) for image in images])  # [B, T, d]
    return text_features(model if isinstance(model, Backbone) else model.backbone, texts)


@full_precision
def cosines(patches: Tensor, text: Tensor) -> Tensor:
    """Return the cosines of L2-normalised patches [B, M, d] and texts [T, d] or [B, T, d]: [B, T, M]."""
    return text @ patches.transpose(1, 2)  # [T, d] or [B, T, d] @ [B, d, M] -> [B, T, M]


@full_precision
def remove_redundancy(patches: Tensor, image: Tensor, text: Tensor) -> Tensor:
    """Return the similarity of patches to texts without the part that all texts share.

    CLIP Surgery multiplies the channels of a patch and a text, weights the texts, subtracts from each product the mean
    over texts, and sums the channels. Summing is linear, so no product of channels is formed:

        similarity(i, t) = w_t cos(patch_i, text_t) - (1/T) sum over texts k of w_k cos(patch_i, text_k)
        w = T softmax over texts of 2 cos(image, text)

    so that texts that match the whole image weigh more. The similarities of a patch sum to 0 over the texts.

    Args:
        patches: [B, M, d], L2-normalised.
        image: image features, [B, d], L2-normalised.
        text: [T, d] or [B, T, d], L2-normalised.

    Returns:
        [B, T, M].

    Raises:
        UserError: a single text, of which nothing would be left.

    Source: Li et al., A closer look at the explainability of Contrastive language-image pre-training, Pattern
    Recognition 2025 (CLIP Surgery); weights and their factor 2 as in its released code.
    """
    if text.shape[-2] < 2:
        raise UserError("redundancy removal subtracts what all texts share; give at least two texts")
    match = cosines(image[:, None], text)  # [B, T, 1]
    weighted = text.shape[-2] * (SURGERY_SCALE * match).softmax(dim=1) * cosines(patches, text)  # [B, T, M]
    return weighted - weighted.mean(dim=1, keepdim=True)


def _traced(model: Backbone | Method | TracedImages, images: Tensor | None) -> TracedImages:
    if isinstance(model, TracedImages):
        return model
    if images is None:
        raise TypeError("images are missing; only the result of trace() comes with its own")
    return trace(model, images)
