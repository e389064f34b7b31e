"""AlignCLIP's attention alignment: the class token's attention, similarity maps and their divergences."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.full_precision import full_precision

Direction = Literal["paper", "released"]

TINY = 1e-12  # below every attention weight that matters; keeps log finite where a softmax underflows


@full_precision
def class_attention(rows: Tensor) -> Tensor:
    """A_c, equation (3): the class token's attention over the patches, mean over the aligned layers.

    Args:
        rows: [L, B, M], per layer, mean over heads, each row summing to 1 (`DenseFeatures.cls_attention`).

    Returns:
        [B, M], rows summing to 1.
    """
    return rows.mean(dim=0)


@full_precision
def log_similarity_distribution(
    patches: Tensor, text: Tensor, labels: Tensor | None, temperature: float | Tensor
) -> Tensor:
    """ln G, equation (4): log-softmax over the patches of cos(patch, class text) / temperature.

    Args:
        patches: [B, M, d].
        text: [C, d].
        labels: [B] int64, the class to look for in each image; None for every class.
        temperature: tau. Published: 0.01 (paper), 1 (released code, which makes G nearly uniform).

    Returns:
        [B, M], or [B, C, M] without labels.
    """
    patches, text = F.normalize(patches, dim=-1), F.normalize(text, dim=-1)
    if labels is None:
        return (text @ patches.transpose(1, 2) / temperature).log_softmax(dim=-1)
    cosine = (patches @ text[labels].unsqueeze(-1)).squeeze(-1)
    return (cosine / temperature).log_softmax(dim=-1)


def similarity_distribution(
    patches: Tensor, text: Tensor, labels: Tensor | None, temperature: float | Tensor
) -> Tensor:
    """G, equation (4); see `log_similarity_distribution`."""
    return log_similarity_distribution(patches, text, labels, temperature).exp()


@full_precision
def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) = sum of p (ln p - ln q) over the last axis, which it drops; from logarithms."""
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1)


@full_precision
def attention_alignment(attention: Tensor, log_guide: Tensor, direction: Direction = "paper") -> Tensor:
    """AL, first term of equation (6): the class token shall look where the guide finds the class.

    Args:
        attention: [B, M], A_c, rows summing to 1.
        log_guide: [B, M], ln G_DV; detach it unless the guide shall learn too.
        direction: "paper" KL(A_c || G_DV), which leaves patches that the guide rules out; "released"
            KL(G_DV || A_c), which covers all that the guide names.

    Returns:
        Scalar, mean over images.
    """
    log_attention = attention.clamp_min(TINY).log()
    if direction == "paper":
        return (attention * (log_attention - log_guide)).sum(dim=-1).mean()
    return kl(log_guide, log_attention).mean()


@full_precision
def similarity_alignment(
    log_similarity: Tensor,
    log_guide: Tensor,
    direction: Direction = "paper",
    reduction: Literal["sum", "mean"] = "sum",
) -> Tensor:
    """AS, second term of equation (6): patches shall match the class where the guide does.

    Args:
        log_similarity, log_guide: ln G and ln G_DV, [B, M] for the selected class, or [B, C, M] for all
            classes (released code).
        direction: "paper" KL(G || G_DV), "released" KL(G_DV || G).
        reduction: over classes, where there are some: "sum" (released: grows with C) or "mean".

    Returns:
        Scalar, mean over images.
    """
    first, second = (log_similarity, log_guide) if direction == "paper" else (log_guide, log_similarity)
    divergence = kl(first, second)
    if divergence.dim() == 2:
        divergence = divergence.sum(dim=-1) if reduction == "sum" else divergence.mean(dim=-1)
    return divergence.mean()


@full_precision
def entropy(log_p: Tensor) -> Tensor:
    """Entropy in nats over the last axis, which it drops; from logarithms, -inf allowed."""
    return -torch.special.xlogy(log_p.exp(), log_p.exp()).sum(dim=-1)


@full_precision
def kl_to_uniform(log_p: Tensor) -> Tensor:
    """KL(p || uniform) = ln M - entropy over the last axis: 0 for a guide that names no patch."""
    return math.log(log_p.shape[-1]) - entropy(log_p)
