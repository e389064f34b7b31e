"""Losses of class logits: AlignCLIP's semantic smoothing, label smoothing, and CLIPood's margin."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.full_precision import full_precision

# Semantic label smoothing (section 4.2) and its relatives: tables of targets, row y for class y


@full_precision
def class_similarity(text: Tensor) -> Tensor:
    """S = T T^T, cosines of class texts: [C, d] -> [C, C]."""
    text = F.normalize(text, dim=-1)
    return text @ text.T


@full_precision
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


@full_precision
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


@full_precision
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


@full_precision
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
