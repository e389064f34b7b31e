"""Attention alignment of AlignCLIP: class attention, similarity maps, and divergences between them."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from ..core.full_precision import full_precision
from .classification import unit_features

Direction = Literal["paper", "released"]

TINY = 1e-12  # below every attention weight that matters; keeps the logarithm finite if a softmax underflows


@full_precision
def class_attention(layer_attention: Tensor) -> Tensor:
    """Return the class token's attention A_c, the mean over the aligned layers (equation 3).

    Args:
        layer_attention: attention over the patches per layer, averaged over heads, [L, B, M], each row summing
            to 1 (`DenseFeatures.cls_attention`).

    Returns:
        [B, M], rows summing to 1.
    """
    return layer_attention.mean(dim=0)  # [B, M]


@full_precision
def log_similarity_distribution(
    patches: Tensor,
    text: Tensor,
    labels: Tensor | None,
    temperature: float | Tensor,
    subtract_class_mean: bool = False,
) -> Tensor:
    """Return ln G, the log-softmax over patches of cos(patch, class text) / temperature (equation 4).

    Args:
        patches: patch features, [B, M, d].
        text: one feature per class, [C, d].
        labels: the class to compare each image with, [B] int64; None for all classes.
        temperature: tau. Published: 0.01 (paper), 1 (released code, which makes G nearly uniform).
        subtract_class_mean: subtract the mean cosine over all classes from each patch, which removes patches that
            match every class (redundant features in CLIP Surgery).

    Returns:
        [B, M], or [B, C, M] without labels.

    Example:
        >>> patches = torch.tensor([[[2.0, 0.0], [0.0, 3.0]]])  # one image, two patches
        >>> text = torch.eye(2)
        >>> log_similarity_distribution(patches, text, torch.tensor([0]), temperature=1.0).exp()
        tensor([[0.7311, 0.2689]])
    """
    patches, text = unit_features(patches), unit_features(text)
    if subtract_class_mean:
        # The same as subtracting the mean cosine, which is linear in the text.
        text = text - text.mean(dim=0)  # [C, d]
    if labels is None:
        return (text @ patches.transpose(1, 2) / temperature).log_softmax(dim=-1)  # [B, C, M]
    cosine = (patches @ text[labels].unsqueeze(-1)).squeeze(-1)  # [B, M, d] @ [B, d, 1] -> [B, M]
    return (cosine / temperature).log_softmax(dim=-1)


@full_precision
def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return KL(p || q) = sum of p (ln p - ln q) over the last axis, in nats.

    Args:
        log_p, log_q: log-probabilities, [..., M].

    Returns:
        [...].
    """
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1)


@full_precision
def attention_alignment(attention: Tensor, log_guide: Tensor, direction: Direction = "paper") -> Tensor:
    """Return the attention alignment loss, the first term of equation (6).

    It moves the class token's attention towards the patches where the guide finds the image's class.

    Args:
        attention: A_c, [B, M], rows summing to 1.
        log_guide: ln G_DV, [B, M]. Detach it unless the guide is trained too.
        direction: "paper" is KL(A_c || G_DV), which leaves patches that the guide rules out; "released" is
            KL(G_DV || A_c), which covers every patch that the guide selects.

    Returns:
        Scalar in nats, the mean over images.

    Example:
        >>> attention, guide = torch.tensor([[0.7, 0.2, 0.1]]), torch.tensor([[0.4, 0.4, 0.2]])
        >>> attention_alignment(attention, guide.log()), attention_alignment(attention, guide.log(), "released")
        (tensor(0.1838), tensor(0.1920))
    """
    log_attention = attention.clamp_min(TINY).log()
    if direction == "paper":
        # Not kl(): its exp(log_attention) would replace weights below TINY by TINY.
        return (attention * (log_attention - log_guide)).sum(dim=-1).mean()
    return kl(log_guide, log_attention).mean()


@full_precision
def similarity_alignment(
    log_similarity: Tensor,
    log_guide: Tensor,
    direction: Direction = "paper",
    reduction: Literal["sum", "mean"] = "sum",
) -> Tensor:
    """Return the similarity alignment loss, the second term of equation (6).

    It makes patches match their class where the guide does.

    Args:
        log_similarity: ln G, [B, M] for one class per image, or [B, C, M] for all classes (released code).
        log_guide: ln G_DV, of the same shape.
        direction: "paper" is KL(G || G_DV), "released" is KL(G_DV || G).
        reduction: over classes: "sum" (released, grows with C) or "mean". Ignored for [B, M].

    Returns:
        Scalar in nats, the mean over images.
    """
    first, second = (log_similarity, log_guide) if direction == "paper" else (log_guide, log_similarity)
    divergence = kl(first, second)  # [B] or [B, C]
    if divergence.dim() == 2:
        divergence = divergence.sum(dim=-1) if reduction == "sum" else divergence.mean(dim=-1)  # [B]
    return divergence.mean()


@full_precision
def entropy(log_p: Tensor) -> Tensor:
    """Return the entropy over the last axis, in nats: log-probabilities [..., M] -> [...].

    Probabilities of zero (-inf) contribute zero.

    Example:
        >>> entropy(torch.tensor([0.5, 0.5, 0.0]).log())
        tensor(0.6931)
    """
    return -torch.special.xlogy(log_p.exp(), log_p.exp()).sum(dim=-1)


@full_precision
def kl_to_uniform(log_p: Tensor) -> Tensor:
    """Return KL(p || uniform) = ln M - entropy over the last axis, in nats: [..., M] -> [...].

    It is 0 for a guide that prefers no patch, and ln M for one that selects a single patch.
    """
    return math.log(log_p.shape[-1]) - entropy(log_p)
