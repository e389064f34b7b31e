"""Contrastive losses between all images and all texts of a batch: CLIP's, SmartCLIP's and Long-CLIP's.

In shapes, b is the rows of this process, N the rows of the batch gathered from all processes (N = b in a single
process) and d the embedding dimension. Each loss is returned as two scalars, `image_to_text` (each image selects its
text) and `text_to_image` (each text selects its image), both means over the local rows. Given the `all_...` arguments,
local rows are scored against the gathered batch; the average over processes, weighted by their rows, is then the loss
of one process that holds the whole batch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import UserError
from ..core.full_precision import full_precision


@full_precision
def contrastive_loss(
    image: Tensor,
    text: Tensor,
    scale: float | Tensor,
    all_image: Tensor | None = None,
    all_text: Tensor | None = None,
    *,
    first: int = 0,
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Return InfoNCE in both directions; CLIP's loss is half their sum.

    Args:
        image, text: local features, [b, d], L2-normalised by the caller.
        scale: s, the factor on cosines.
        all_image, all_text: gathered features, [N, d]; None if the local rows are the whole batch.
        first: index of the first local row in the gathered batch.
        label_smoothing: part of each target that is spread over all N rows.

    Returns:
        image_to_text and text_to_image, two scalars in nats.

    Source: Radford et al., ICML 2021, figure 3.

    Example:
        >>> image = text = torch.eye(2)
        >>> contrastive_loss(image, text, scale=2.0)
        (tensor(0.1269), tensor(0.1269))
    """
    image_to_text, text_to_image = contrastive_logits(image, text, scale, all_image, all_text)
    return symmetric_cross_entropy(image_to_text, text_to_image, first, label_smoothing)


@full_precision
def contrastive_logits(
    image: Tensor,
    text: Tensor,
    scale: float | Tensor,
    all_image: Tensor | None = None,
    all_text: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return scaled similarities of local images with all texts, and of local texts with all images.

    Args:
        image, text: local features, [b, d], used as they are.
        scale: s.
        all_image, all_text: gathered features, [N, d]; None if the local rows are the whole batch.

    Returns:
        Logits of images and logits of texts, both [b, N].
    """
    if all_image is None or all_text is None:
        logits = scale * image @ text.T  # [b, b]
        return logits, logits.T
    return scale * image @ all_text.T, scale * text @ all_image.T  # [b, N] each


def symmetric_cross_entropy(
    image_to_text: Tensor, text_to_image: Tensor, first: int, label_smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return the cross-entropies of two matrices of logits [b, N] whose row k has target first + k."""
    targets = torch.arange(first, first + len(image_to_text), device=image_to_text.device)
    return (
        F.cross_entropy(image_to_text, targets, label_smoothing=label_smoothing),
        F.cross_entropy(text_to_image, targets, label_smoothing=label_smoothing),
    )


@full_precision
def masked_contrastive_loss(
    image_features: Tensor,
    text_features: Tensor,
    masks: Tensor,
    logit_scale: float | Tensor = 100.0,
    all_image_features: Tensor | None = None,
    all_text_features: Tensor | None = None,
    all_masks: Tensor | None = None,
    *,
    first: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return SmartCLIP's modular loss, in which every caption is scored under its own mask against every image.

    With S[i, j] = s <I_i * m_j, t_j> / ||I_i * m_j||, image_to_text is the cross-entropy over captions j with target
    j = i (same image, different masks), and text_to_image that over images i with target i = j (different images,
    same mask). A caption whose mask is all zeros scores 0 with every image, and has no gradient.

    Args:
        image_features: I, [b, d], not normalised.
        text_features: t, [b, d], unit norm; they are not normalised again.
        masks: m, one per caption, [b, d] in [0, 1].
        logit_scale: s. Published: 100, fixed.
        all_image_features, all_text_features, all_masks: the gathered batch, [N, d], all three or none. The local
            rows are a contiguous block of it, in order.
        first: index of the first local row in the gathered batch; None to find the block by comparing values.

    Returns:
        image_to_text and text_to_image, two scalars in nats, without weights.

    Raises:
        UserError: widths or numbers of rows differ; some but not all gathered tensors; the local rows are not a block
            of the gathered batch.

    Source: Xie et al., SmartCLIP, CVPR 2025.

    Example:
        >>> image, text = torch.tensor([[3.0, 4.0], [4.0, 3.0]]), torch.eye(2)
        >>> masks = torch.eye(2)  # each caption compares one dimension, in which the images do not differ
        >>> masked_contrastive_loss(image, text, masks)
        (tensor(0.6931), tensor(0.6931))
    """
    local = (image_features, text_features, masks)
    check_rows(*local, "")
    gathered = (all_image_features, all_text_features, all_masks)
    if all(value is None for value in gathered):
        scores = masked_scores(*local, logit_scale)  # [b, b]
        return symmetric_cross_entropy(scores, scores.T, 0)
    if all_image_features is None or all_text_features is None or all_masks is None:
        raise UserError(
            "all_image_features, all_text_features and all_masks belong together: give all or none"
        )
    check_rows(all_image_features, all_text_features, all_masks, "all_")
    check_width(image_features, all_image_features, "image_features", "all_image_features")
    if first is None:
        first = find_block(local, (all_image_features, all_text_features, all_masks))
    image_to_text = masked_scores(image_features, all_text_features, all_masks, logit_scale)  # [b, N]
    text_to_image = masked_scores(all_image_features, text_features, masks, logit_scale)  # [N, b]
    return symmetric_cross_entropy(image_to_text, text_to_image.T, first)


def masked_scores(image: Tensor, text: Tensor, masks: Tensor, scale: float | Tensor) -> Tensor:
    """Return S of `masked_contrastive_loss`: images [n, d], unit-norm texts [T, d], masks [T, d] -> [n, T]."""
    dtype = torch.promote_types(image.dtype, text.dtype)
    image, text, masks = image.to(dtype), text.to(dtype), masks.to(dtype)
    # <I * m, t> = I (m * t)^T and ||I * m||^2 = (I * I)(m * m)^T: two products, and no [n, T, d] tensor. A hard mask
    # equals its square, but m * m keeps the gradient of a straight-through mask.
    dots = image @ (masks * text).T  # [n, T]
    squared_norms = (image * image) @ (masks * masks).T  # [n, T]
    nonzero = squared_norms > 0
    # rsqrt has no finite gradient at 0; the inner `where` keeps those entries out of the graph.
    return torch.where(nonzero, scale * dots * torch.where(nonzero, squared_norms, 1.0).rsqrt(), 0.0)


@full_precision
def masked_features(image: Tensor, masks: Tensor) -> Tensor:
    """Return each image under one mask, normalised: (I_i * m_i) / ||I_i * m_i||, or zeros if the norm is 0.

    Args:
        image: I, [b, d], not normalised.
        masks: m, [b, d].

    Returns:
        [b, d], unit norm.

    Example:
        >>> masked_features(torch.tensor([[3.0, 4.0], [3.0, 4.0]]), torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
        tensor([[0., 1.],
                [0., 0.]])
    """
    masked = image * masks
    squared_norms = (masked * masked).sum(dim=-1, keepdim=True)  # [b, 1]
    nonzero = squared_norms > 0
    # As in `masked_scores`: no gradient through rsqrt(0).
    return torch.where(nonzero, masked * torch.where(nonzero, squared_norms, 1.0).rsqrt(), 0.0)


@full_precision
def project_to_components(features: Tensor, batch: Tensor, count: int) -> Tensor:
    """Project features onto the largest principal components of a batch (Long-CLIP's short branch).

    The result is mean + (x - mean) V V^T, with V the first `count` right singular vectors of the centred batch; it is
    not normalised again.

    Args:
        features: x, [b, d].
        batch: features whose mean and components are used, [N, d].
        count: components to keep. Published: 32. If it is at least min(N - 1, d), x is returned up to rounding.

    Returns:
        [b, d].

    Source: Zhang et al., Long-CLIP, ECCV 2024.

    Example:
        >>> batch = torch.tensor([[0.0, 0.0], [2.0, 0.1], [4.0, 0.0], [2.0, -0.1]])
        >>> project_to_components(torch.tensor([[1.0, 5.0]]), batch, count=1).round(decimals=4).abs()
        tensor([[1., 0.]])
    """
    mean = batch.mean(dim=0)  # [d]
    # V is a constant: the gradient of singular vectors divides by gaps between singular values, and batches with
    # repeated rows have equal ones. The gradient through the mean and x is kept.
    with torch.no_grad():
        basis = torch.linalg.svd(batch - mean, full_matrices=False).Vh[:count]  # [count, d]
    return mean + (features - mean) @ basis.T @ basis  # [b, d]


def check_rows(image: Tensor, text: Tensor, masks: Tensor, prefix: str) -> None:
    """Raise UserError unless all three are [n, d]; `prefix` completes their names in the message."""
    names = [prefix + name for name in ("image_features", "text_features", "masks")]
    for value, name in ((text, names[1]), (masks, names[2])):
        check_width(image, value, names[0], name)
        if len(value) != len(image):
            raise UserError(f"{len(image)} rows of {names[0]}, but {len(value)} of {name}")


def check_width(first: Tensor, second: Tensor, first_name: str, second_name: str) -> None:
    """Raise UserError unless both are matrices of the same width."""
    if first.dim() != 2 or second.dim() != 2 or first.shape[1] != second.shape[1]:
        raise UserError(
            f"{second_name} of shape {tuple(second.shape)} do not fit {first_name} of shape {tuple(first.shape)}: "
            "both must be [rows, d] with the same d; a mask network of another width needs a projection to d"
        )


def find_block(local: tuple[Tensor, ...], gathered: tuple[Tensor, ...]) -> int:
    """Return the first row of the block of `gathered` that equals `local`, tensor by tensor.

    Raises:
        UserError: there is none.
    """
    size = len(local[0])
    # First rows can repeat within a batch, so each candidate is compared as a whole.
    candidates = (gathered[0] == local[0][:1].to(gathered[0].dtype)).all(dim=1).nonzero().flatten().tolist()
    for start in candidates:
        pairs = zip(local, gathered, strict=True)
        if start + size <= len(gathered[0]) and all(
            torch.equal(a, b[start : start + size]) for a, b in pairs
        ):
            return int(start)
    raise UserError(
        "the local rows are not a block of the gathered batch: gather image features, text features and masks of the "
        "same step in order, or pass the index of the first local row as `first`"
    )
