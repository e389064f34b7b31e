"""Losses of class logits: AlignCLIP's semantic smoothing, label smoothing, and CLIPood's margin.

Smoothing is expressed as a table of targets [C, C], whose row y is the target of images of class y.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.full_precision import full_precision


@full_precision
def unit_features(features: Tensor) -> Tensor:
    """Return L2-normalised features, [..., d], in float32 even if the tower ran in half precision under autocast.

    Example:
        >>> unit_features(torch.tensor([[3.0, 4.0]], dtype=torch.bfloat16))
        tensor([[0.6000, 0.8000]])
    """
    return F.normalize(features, dim=-1)


@full_precision
def cosine_logits(image: Tensor, text: Tensor, scale: float | Tensor) -> Tensor:
    """Return the class logits of CLIP, the logit scale times the cosines of image and text features.

    Args:
        image: I, [B, d], L2-normalised (`unit_features`).
        text: T, [C, d], L2-normalised; or [B, C, d] if every image has its own prompts.
        scale: s, 100 for OpenAI's weights.

    Returns:
        [B, C], in float32 even under autocast: bfloat16 rounds a logit of 25 (cosine 0.25, s = 100) to a multiple of
        0.125.

    Source: Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021.

    Example:
        >>> cosine_logits(torch.eye(2), torch.tensor([[0.6, 0.8], [1.0, 0.0]]), 10.0)
        tensor([[ 6., 10.],
                [ 8.,  0.]])
    """
    # [B, C] from [B, d] @ [d, C], or from [B, C, d] @ [B, d, 1]
    similarities = image @ text.T if text.dim() == 2 else (text @ image.unsqueeze(-1)).squeeze(-1)
    return scale * similarities


@full_precision
def class_similarity(text: Tensor) -> Tensor:
    """Return S = T T^T, the cosines between class texts: [C, d] -> [C, C]."""
    text = unit_features(text)
    return text @ text.T


@full_precision
def semantic_targets(similarity: Tensor, epsilon: float, raw: bool = False) -> Tensor:
    """Return the targets of the paper, (1 - epsilon) one-hot + epsilon S' (section 4.2, equations 8 and 9).

    Args:
        similarity: S, [C, C].
        epsilon: weight of the similarity term. Published: 0.1.
        raw: use S itself, as equation (9) prints it (rows do not sum to 1), instead of S' = softmax of the rows
            of S at temperature 1 (appendix B.5). S' is close to uniform, since cosines of class texts differ by
            less than 0.4.

    Returns:
        [C, C].

    Example:
        >>> semantic_targets(torch.tensor([[1.0, 0.8], [0.8, 1.0]]), epsilon=0.1)
        tensor([[0.9550, 0.0450],
                [0.0450, 0.9550]])
    """
    soft = similarity if raw else similarity.softmax(dim=-1)
    return (1 - epsilon) * torch.eye(len(similarity), dtype=soft.dtype, device=soft.device) + epsilon * soft


@full_precision
def released_semantic_targets(similarity: Tensor, confidence: float, sharpness: float | Tensor) -> Tensor:
    """Return the targets of the released code: `confidence` on the diagonal, softmax(sharpness * S) off it.

    They are not normalised: with D = softmax(sharpness * S), row y sums to confidence + 1 - D_yy, which is more
    for classes with similar neighbours.

    Args:
        similarity: S, [C, C].
        confidence: target of the true class. Published: 0.9.
        sharpness: factor on cosines, an inverse temperature. Published: 35.

    Returns:
        [C, C].

    Example:
        >>> released_semantic_targets(torch.tensor([[1.0, 0.9], [0.9, 1.0]]), 0.9, 35)
        tensor([[0.9000, 0.0293],
                [0.0293, 0.9000]])
    """
    spread = (sharpness * similarity).softmax(dim=-1)
    eye = torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
    return spread.masked_fill(eye, confidence)


def sharpness_for_mass(similarity: Tensor, mass: float) -> float:
    """Return the h at which softmax(h S) puts the share `mass` on other classes, on average over the rows.

    Args:
        similarity: S, [C, C], cosines between class texts.
        mass: between 0 and 1 - 1/C, the share at h = 0.

    Returns:
        h, at most 1000. The share falls with h, and reaches 0 unless two classes have the same text.

    Example:
        >>> round(sharpness_for_mass(torch.tensor([[1.0, 0.9], [0.9, 1.0]]), mass=0.0293), 1)
        35.0
    """
    low, high = 0.0, 1000.0
    for _ in range(50):
        middle = (low + high) / 2
        other = 1 - (middle * similarity.double()).softmax(dim=-1).diagonal().mean()  # mean of [C]
        low, high = (middle, high) if float(other) > mass else (low, middle)
    return high


def uniform_targets(classes: int, epsilon: float, device: torch.device | str | None = None) -> Tensor:
    """Return the targets of label smoothing, (1 - epsilon) one-hot + epsilon / C (equation 7), [C, C]."""
    return (1 - epsilon) * torch.eye(classes, device=device) + epsilon / classes


@full_precision
def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean over images of -sum over classes of q ln softmax(z).

    Unlike `torch.nn.functional.cross_entropy`, whose documentation asks for probabilities, targets may have any
    sum; the sum weights the image.

    Args:
        logits: z, [B, C].
        targets: q, [B, C].

    Returns:
        Scalar in nats.
    """
    return -(targets * logits.log_softmax(dim=-1)).sum(dim=-1).mean()


@full_precision
def margin_logits(
    image: Tensor, text: Tensor, labels: Tensor, scale: float | Tensor, margin: float
) -> Tensor:
    """Return the logits of CLIPood's margin metric softmax, s <I - margin T_y, T_k>.

    The margin subtracts s * margin from the true class and s * margin * cos(T_y, T_k) from every other class k, so
    classes are pushed apart further the less similar their texts are. The shifted image feature is not normalised
    again.

    Args:
        image: I, [B, d].
        text: T, [C, d].
        labels: y, [B] int64.
        scale: s, 100 for OpenAI's weights.
        margin: in cosines; 0 gives plain logits. Published: 0.3 or 0.1, which is also a good margin at other scales:
            cosines between images and texts do not grow as s falls.

    Returns:
        [B, C].

    Source: Shu et al., CLIPood, ICML 2023.

    Example:
        >>> text = torch.eye(2)
        >>> margin_logits(torch.tensor([[1.0, 0.0]]), text, torch.tensor([0]), scale=100.0, margin=0.3)
        tensor([[70.,  0.]])
    """
    image, text = unit_features(image), unit_features(text)
    return scale * (image - margin * text[labels]) @ text.T  # [B, d] @ [d, C] -> [B, C]
