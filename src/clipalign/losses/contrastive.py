"""Losses between all images and all texts of a batch: CLIP's, SmartCLIP's, and Long-CLIP's coarse images.

All are read through `losses`. b local rows, N rows of the whole batch (N = b in one process), D joint size. Each
loss comes in two directions, "rows" (an image looks for its text) and "columns" (a text looks for its image),
and each direction is a mean over the local rows. With the `all_...` arguments local rows are scored against a
batch gathered from several processes: the mean over processes, weighed by their rows, is the loss of one process.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import UserError
from ..core.full_precision import full_precision


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
    """SmartCLIP's modular loss: every caption is scored with its own mask, against every image.

    S[i, j] = s <I_i (.) m_j, t_j> / ||I_i (.) m_j||; the row loss is the cross-entropy over j with target j = i
    ("same image, different masks"), the column loss that over i with target i = j ("different images, same
    mask"). Numerators are I (m (.) t)ᵀ and squared norms (I (.) I)(m (.) m)ᵀ, so that no [b, N, D] tensor
    exists; m (.) m and not m, which a hard mask equals, keeps the gradient of a straight-through mask.

    A caption whose mask is all zeros scores 0 with every image, and takes and gives no gradient.

    Args:
        image_features: [b, D], not normalised.
        text_features: [b, D], unit rows; they are not normalised again.
        masks: [b, D] in [0, 1], of the captions.
        logit_scale: s. Published: 100, fixed.
        all_image_features, all_text_features, all_masks: [N, D], the whole batch, all three or none. They hold
            copies of the local rows, one block in order.
        first: where that block begins; None to find it by comparing values.

    Returns:
        Row loss and column loss, two scalars, neither weighed nor halved.

    Raises:
        UserError: widths or numbers of rows that do not fit; some of the gathered tensors without the others;
            local rows that are not in the gathered batch.

    Source: Xie et al., SmartCLIP, CVPR 2025.
    """
    local = (image_features, text_features, masks)
    check_rows(*local, "")
    everyone = (all_image_features, all_text_features, all_masks)
    if all(value is None for value in everyone):
        scores = masked_scores(*local, logit_scale)
        return both_ways(scores, scores.T, 0)
    if all_image_features is None or all_text_features is None or all_masks is None:
        raise UserError(
            "all_image_features, all_text_features and all_masks belong together: give all or none"
        )
    gathered = (all_image_features, all_text_features, all_masks)
    check_rows(*gathered, "all_")
    check_width(image_features, all_image_features, "image_features", "all_image_features")
    if first is None:
        first = place_of(local, gathered)
    rows = masked_scores(image_features, all_text_features, all_masks, logit_scale)
    columns = masked_scores(all_image_features, text_features, masks, logit_scale)
    return both_ways(rows, columns.T, first)


def masked_scores(image: Tensor, text: Tensor, masks: Tensor, scale: float | Tensor) -> Tensor:
    """S of `masked_contrastive_loss`: [n, D] images, [T, D] unit texts, [T, D] masks -> [n, T]."""
    kind = torch.promote_types(image.dtype, text.dtype)
    image, text, masks = image.to(kind), text.to(kind), masks.to(kind)
    dots = image @ (masks * text).T
    square = (image * image) @ (masks * masks).T
    seen = square > 0
    # A root of 0 has no gradient; the inner `where` keeps it out of the graph.
    return torch.where(seen, scale * dots * torch.where(seen, square, 1.0).rsqrt(), 0.0)


@full_precision
def masked_features(image: Tensor, masks: Tensor) -> Tensor:
    """Each image under one mask, as unit rows: (I_i (.) m_i) / ||I_i (.) m_i||, zeros where nothing is left.

    Args:
        image: [b, D], not normalised.
        masks: [b, D].

    Returns:
        [b, D].
    """
    masked = image * masks
    square = (masked * masked).sum(dim=-1, keepdim=True)
    seen = square > 0
    return torch.where(seen, masked * torch.where(seen, square, 1.0).rsqrt(), 0.0)


@full_precision
def contrastive_logits(
    image: Tensor,
    text: Tensor,
    scale: float | Tensor,
    all_image: Tensor | None = None,
    all_text: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Scaled similarities of local rows with all of a batch, from either side.

    Args:
        image, text: [b, D], used as they are.
        scale: s.
        all_image, all_text: [N, D], the whole batch; None where local rows are all there are.

    Returns:
        Images with all texts, and texts with all images, both [b, N].
    """
    if all_image is None or all_text is None:
        logits = scale * image @ text.T
        return logits, logits.T
    return scale * image @ all_text.T, scale * text @ all_image.T


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
    """InfoNCE, CLIP's loss in its two directions; CLIP descends half of their sum.

    Args:
        image, text, scale, all_image, all_text: as in `contrastive_logits`.
        first: where the local rows begin in the whole batch.
        label_smoothing: share of the target that is spread over all N.

    Returns:
        Row loss and column loss, two scalars.
    """
    rows, columns = contrastive_logits(image, text, scale, all_image, all_text)
    return both_ways(rows, columns, first, label_smoothing)


def both_ways(
    rows: Tensor, columns: Tensor, first: int, label_smoothing: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Cross-entropies of two [b, N] matrices whose row k has its target at first + k."""
    targets = torch.arange(first, first + len(rows), device=rows.device)
    one, other = (F.cross_entropy(z, targets, label_smoothing=label_smoothing) for z in (rows, columns))
    return one, other


@full_precision
def project_to_components(features: Tensor, everyone: Tensor, count: int) -> Tensor:
    """Features with nothing left but their largest principal components over a batch (Long-CLIP's short branch).

    mean + (x - mean) V Vᵀ, V the first `count` right singular vectors of the centred batch; not normalised
    again. V counts as a constant: the gradient of singular vectors divides by gaps between singular values, and
    the batch of a run has equal ones. The gradient through the mean and through x is kept.

    Args:
        features: [b, D].
        everyone: [N, D], the batch that mean and components are taken of.
        count: components to keep. Published: 32. With N - 1 or D at most that many nothing is lost.

    Returns:
        [b, D].
    """
    mean = everyone.mean(dim=0)
    with torch.no_grad():
        basis = torch.linalg.svd(everyone - mean, full_matrices=False).Vh[:count]
    return mean + (features - mean) @ basis.T @ basis


def check_rows(image: Tensor, text: Tensor, masks: Tensor, prefix: str) -> None:
    """Raise UserError unless the three are [n, D] each."""
    names = [prefix + name for name in ("image_features", "text_features", "masks")]
    for value, name in ((text, names[1]), (masks, names[2])):
        check_width(image, value, names[0], name)
        if len(value) != len(image):
            raise UserError(f"{len(image)} rows of {names[0]}, but {len(value)} of {name}")


def check_width(one: Tensor, other: Tensor, name: str, other_name: str) -> None:
    """Raise UserError unless both are matrices of the same width."""
    if one.dim() != 2 or other.dim() != 2 or one.shape[1] != other.shape[1]:
        raise UserError(
            f"{other_name} of shape {tuple(other.shape)} do not fit {name} of shape {tuple(one.shape)}: both must "
            "be [rows, D] with the same D; a mask network of another width needs a projection to D"
        )


def place_of(local: tuple[Tensor, ...], gathered: tuple[Tensor, ...]) -> int:
    """Where a block of rows begins in the batch that holds copies of it.

    Raises:
        UserError: it does not.
    """
    size, (anchor, *_), (everyone, *_) = len(local[0]), local, gathered
    found = (everyone == anchor[:1].to(everyone.dtype)).all(dim=1).nonzero().flatten().tolist()
    for start in found:
        pairs = zip(local, gathered, strict=True)
        if start + size <= len(everyone) and all(torch.equal(a, b[start : start + size]) for a, b in pairs):
            return int(start)
    raise UserError(
        "the local rows are not a block of the gathered batch: gather image features, text features and masks "
        "of the same step in order, or say with `first` where the block begins"
    )
