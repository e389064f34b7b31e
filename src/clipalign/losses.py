"""Pure functions of tensors: AlignCLIP's attention alignment and semantic smoothing, CLIPood's margin.

Losses that compare all images with all texts are in `losses_contrastive` and are named here.

Equation numbers are those of AlignCLIP (2023). Where the paper and its released code differ, both are here
under the names "paper" and "released". B images, M patches, C classes, d joint size, L layers. Features need
not be normalised; cosines are formed here. Everything is computed in float32 at least, outside autocast, from
log-softmax: at temperature 0.01 one bfloat16 rounding of a cosine would move a logit by 0.4.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .full_precision import full_precision as _full_precision
from .losses_contrastive import contrastive_logits as contrastive_logits
from .losses_contrastive import contrastive_loss as contrastive_loss
from .losses_contrastive import masked_contrastive_loss as masked_contrastive_loss
from .losses_contrastive import masked_rows as masked_rows
from .losses_contrastive import reduced_to_components as reduced_to_components

Direction = Literal["paper", "released"]

TINY = 1e-12  # below every attention weight that matters; keeps log finite where a softmax underflows


# Attention alignment (section 4.1)


@_full_precision
def class_attention(rows: Tensor) -> Tensor:
    """A_c, equation (3): the class token's attention over the patches, mean over the aligned layers.

    Args:
        rows: [L, B, M], per layer, mean over heads, each row summing to 1 (`Dense.cls_attention`).

    Returns:
        [B, M], rows summing to 1.
    """
    return rows.mean(dim=0)


@_full_precision
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


@_full_precision
def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) = sum of p (ln p - ln q) over the last axis, which it drops; from logarithms."""
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1)


@_full_precision
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


@_full_precision
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


# Semantic label smoothing (section 4.2) and its relatives: tables of targets, row y for class y


@_full_precision
def class_similarity(text: Tensor) -> Tensor:
    """S = T T^T, cosines of class texts: [C, d] -> [C, C]."""
    text = F.normalize(text, dim=-1)
    return text @ text.T


@_full_precision
def semantic_targets(similarity: Tensor, epsilon: float, raw: bool = False) -> Tensor:
    """Targets of the paper, equations (8) and (9): (1 - epsilon) one-hot + epsilon S'.

    Args:
        similarity: [C, C], S.
        epsilon: share of the similarity term. Published: 0.1.
        raw: S itself as equation (9) prints it (rows do not sum to 1) instead of S' = row softmax of S at
            temperature 1 (appendix B.5), which is close to uniform, since cosines differ by less than 0.4.

    Returns:
        [C, C].
    """
    soft = similarity if raw else similarity.softmax(dim=-1)
    return (1 - epsilon) * torch.eye(len(similarity), dtype=soft.dtype, device=soft.device) + epsilon * soft


@_full_precision
def released_semantic_targets(similarity: Tensor, confidence: float, sharpness: float | Tensor) -> Tensor:
    """Targets of the released code: `confidence` on the diagonal, row softmax of sharpness * S off it.

    Not normalised: row y sums to confidence + 1 - D_yy, more for classes with near neighbours.

    Args:
        similarity: [C, C], S.
        confidence: target of the true class. Published: 0.9.
        sharpness: factor on cosines. Published: 35.

    Returns:
        [C, C].
    """
    spread = (sharpness * similarity).softmax(dim=-1)
    eye = torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
    return spread.masked_fill(eye, confidence)


def uniform_targets(classes: int, epsilon: float, device: torch.device | str | None = None) -> Tensor:
    """Label smoothing, equation (7), [C, C]: epsilon / C everywhere, 1 - epsilon more on the diagonal."""
    return (1 - epsilon) * torch.eye(classes, device=device) + epsilon / classes


@_full_precision
def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over images of -sum over classes of q ln softmax(z); q need not sum to 1.

    Args:
        logits: [B, C], z.
        targets: [B, C], q.

    Returns:
        Scalar.
    """
    return -(targets * logits.log_softmax(dim=-1)).sum(dim=-1).mean()


# Margin (CLIPood)


def published_margin(scale: float) -> float:
    """CLIPood's margin in cosines on a backbone of logit scale `scale`.

    30 logits, the published 0.3 at CLIP's scale of 100; at most 1, since on a scale of 15 as many logits would be
    more than cosines can make up for.
    """
    return min(1.0, 30 / scale)


@_full_precision
def margin_logits(
    image: Tensor, text: Tensor, labels: Tensor, scale: float | Tensor, margin: float
) -> Tensor:
    """Logits of CLIPood's margin metric softmax (Shu et al., ICML 2023): s <I - margin T_y, T_k>.

    The true class loses s * margin, every other class s * margin * cos(T_y, T_k): the less two classes are
    alike, the further apart they must be. The shifted image feature is not normalised again.

    Args:
        image: [B, d].
        text: [C, d].
        labels: [B] int64.
        scale: s, 100 for OpenAI's weights.
        margin: in cosines; 0 gives plain logits. Published: 0.3 or 0.1.

    Returns:
        [B, C].
    """
    image, text = F.normalize(image, dim=-1), F.normalize(text, dim=-1)
    return scale * (image - margin * text[labels]) @ text.T


# What to log


@_full_precision
def entropy(log_p: Tensor) -> Tensor:
    """Entropy in nats over the last axis, which it drops; from logarithms, -inf allowed."""
    return -torch.special.xlogy(log_p.exp(), log_p.exp()).sum(dim=-1)


@_full_precision
def kl_to_uniform(log_p: Tensor) -> Tensor:
    """KL(p || uniform) = ln M - entropy over the last axis: 0 for a guide that names no patch."""
    return math.log(log_p.shape[-1]) - entropy(log_p)
