"""Do masks disentangle concepts? Theorem 4.3 of SmartCLIP, measured.

The theorem (Xie et al., SmartCLIP, CVPR 2025, arXiv 2507.22264) states that unions and intersections of masks identify
concepts of any granularity. If so, the mask of "a dog and a kite" is the union of the masks of "a dog" and "a kite",
and the intersection of the masks of "a dog and a kite" and "a dog and a bell" is the mask of "a dog". The paper does
not measure this. The definitions below are this package's; docs/disentanglement.md gives the reasons.

A mask is a set of dimensions, or a fuzzy set if it is soft: the union takes the larger, the intersection the smaller
entry, and the size is the sum of entries. Overlap is the Jaccard index, intersection over union; two empty masks have
overlap 1. A wide mask overlaps with everything, so every match is compared with chance: the same comparison with texts
about other concepts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

BLOCK = 1024  # rows of a block of overlaps


@dataclass(frozen=True)
class ActiveDimensions:
    """Number of active dimensions of masks. A dimension is active if its entry is at least 0.5.

    Attributes:
        mean, minimum, maximum: active dimensions per text.
        size: mean sum of entries, which the sparsity loss penalises; equal to `mean` for hard masks.
        dimensions: D.
        empty, full: share of texts with no active dimension, and with all of them.
    """

    mean: float
    minimum: int
    maximum: int
    size: float
    dimensions: int
    empty: float
    full: float


@dataclass(frozen=True)
class Relation:
    """Overlap of masks of concepts with the same label, and with different ones.

    Attributes:
        related, unrelated: mean overlap over pairs of different concepts; None without such pairs.
        auroc: probability that a related pair overlaps more than an unrelated one, ties counted as one half; None if
            one of the two kinds is missing. It is 0.5 for masks that do not depend on the label.
        related_pairs, unrelated_pairs: number of unordered pairs.
    """

    related: float | None
    unrelated: float | None
    auroc: float | None
    related_pairs: int
    unrelated_pairs: int


@dataclass(frozen=True)
class Match:
    """Overlap of composed masks with the masks they should equal.

    Attributes:
        score: mean overlap; None without comparisons.
        chance: mean overlap with the masks of texts that share no concept; None without such texts.
        excess: (score - chance) / (1 - chance): 1 for perfect matches, 0 for the chance level. It is 0 if chance is 1,
            as for identical masks, and None if chance is None.
        count: number of comparisons.
    """

    score: float | None
    chance: float | None
    excess: float | None
    count: int


@dataclass(frozen=True)
class Disentanglement:
    """Result of `disentanglement`.

    Attributes:
        single, joined: active dimensions of texts with one concept, and with two.
        relations: by name of the label.
        union: match of the union of m_a and m_b with m_ab.
        intersection: match of the intersection of m_ab and m_ac with m_a.
    """

    single: ActiveDimensions
    joined: ActiveDimensions
    relations: Mapping[str, Relation]
    union: Match
    intersection: Match


def disentanglement(
    single: Tensor, joined: Tensor, pairs: np.ndarray, labels: Mapping[str, Sequence[str]]
) -> Disentanglement:
    """Measure the masks of single concepts and of pairs of concepts.

    Args:
        single: [C, D] masks in [0, 1] of texts with one concept.
        joined: [P, D] masks of texts with two concepts.
        pairs: [P, 2] int, the two different rows of `single` that each joined text is about.
        labels: name of a label -> label of each concept; related concepts have the same one.

    Raises:
        ValueError: shapes do not match, masks are outside of [0, 1] or not finite, or a concept is paired with itself.

    Example:
        >>> single = torch.eye(4)  # each concept has its own dimension
        >>> pairs = np.array([[0, 1], [0, 2], [2, 3]])
        >>> joined = torch.maximum(single[pairs[:, 0]], single[pairs[:, 1]])
        >>> result = disentanglement(single, joined, pairs, {})
        >>> result.union.score, result.intersection.excess
        (1.0, 1.0)
    """
    pairs = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)  # [P, 2]
    single, joined = _checked(single), _checked(joined)
    if joined.shape != (len(pairs), single.shape[1]):
        raise ValueError(
            f"{tuple(joined.shape)} joined masks for {len(pairs)} pairs of {single.shape[1]} dimensions"
        )
    if len(pairs) and (pairs.min() < 0 or pairs.max() >= len(single) or (pairs[:, 0] == pairs[:, 1]).any()):
        raise ValueError("pairs: each has to name two different rows of the single masks")
    return Disentanglement(
        active_dimensions(single),
        active_dimensions(joined),
        {name: _relation(single, values) for name, values in labels.items()},
        _union(single, joined, pairs),
        _intersection(single, joined, pairs),
    )


def active_dimensions(masks: Tensor) -> ActiveDimensions:
    """Count the active dimensions of masks [T, D]; all counts are 0 if T is.

    >>> active_dimensions(torch.tensor([[0.0, 0.2, 0.9], [1.0, 0.5, 0.0]])).mean
    1.5
    """
    active = (masks >= 0.5).sum(dim=1)  # [T]
    if not len(masks):
        return ActiveDimensions(0.0, 0, 0, 0.0, masks.shape[1], 0.0, 0.0)
    return ActiveDimensions(
        float(active.double().mean()),
        int(active.min()),
        int(active.max()),
        float(masks.double().sum(dim=1).mean()),
        masks.shape[1],
        float((active == 0).double().mean()),
        float((active == masks.shape[1]).double().mean()),
    )


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Return the Jaccard overlap of all pairs of masks: sum of minima over sum of maxima.

    Args:
        a: [A, D] in [0, 1].
        b: [B, D] in [0, 1].

    Returns:
        [A, B] float64 in [0, 1]; 1 for two empty masks.

    Example:
        >>> overlap(torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])).tolist()
        [[0.5, 0.0]]
    """
    a, b = a.double(), b.double()
    blocks = []
    for rows in a.split(BLOCK):
        # min = (x + y - |x - y|) / 2 and max = (x + y + |x - y|) / 2, so [A, B, D] is never in memory.
        sizes = rows.sum(dim=1)[:, None] + b.sum(dim=1)  # [a, B]
        distances = torch.cdist(rows, b, p=1.0)  # [a, B]
        blocks.append(_ratio(sizes - distances, sizes + distances))
    return torch.cat(blocks) if blocks else a.new_zeros(0, len(b))  # [A, B]


def _overlap_of_rows(a: Tensor, b: Tensor) -> Tensor:
    """Return the overlap of corresponding rows, [N]."""
    return _ratio(torch.minimum(a, b).sum(dim=1), torch.maximum(a, b).sum(dim=1))


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Divide, with 0 / 0 = 1."""
    tiny = torch.finfo(whole.dtype).tiny
    return torch.where(whole > 0, part / whole.clamp_min(tiny), 1.0).clamp(0, 1)


def _relation(masks: Tensor, labels: Sequence[str]) -> Relation:
    if len(labels) != len(masks):
        raise ValueError(f"{len(labels)} labels for {len(masks)} concepts")
    first, second = np.triu_indices(len(masks), k=1)  # [pairs] each
    values = overlap(masks, masks).numpy()[first, second]  # [pairs]
    same = np.array(tuple(labels))[first] == np.array(tuple(labels))[second]  # [pairs]
    parts = values[same], values[~same]
    # Round to 12 digits: rounding errors of soft masks would break ties.
    known = bool(same.any() and not same.all())
    auroc = float(roc_auc_score(same, values.round(12))) if known else None
    related, unrelated = (float(part.mean()) if len(part) else None for part in parts)
    return Relation(related, unrelated, auroc, len(parts[0]), len(parts[1]))


def _union(single: Tensor, joined: Tensor, pairs: np.ndarray) -> Match:
    union = torch.maximum(single[pairs[:, 0]], single[pairs[:, 1]])  # [P, D]
    shared = (pairs[:, None, :, None] == pairs[None, :, None, :]).any(axis=(2, 3))  # [P, P]
    return _match(union, joined, joined, torch.from_numpy(~shared))


def _intersection(single: Tensor, joined: Tensor, pairs: np.ndarray) -> Match:
    first, second, shared = _pairs_sharing_one(pairs)
    intersection = torch.minimum(joined[first], joined[second])  # [N, D]
    foreign = np.ones((len(first), len(single)), dtype=bool)  # [N, C]
    for members in (pairs[first], pairs[second]):
        np.put_along_axis(foreign, members, False, axis=1)
    return _match(intersection, single[shared], single, torch.from_numpy(foreign))


def _pairs_sharing_one(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows of `pairs` that share exactly one concept, and that concept: three arrays [N]."""
    same = pairs[:, None, :, None] == pairs[None, :, None, :]  # [P, P, 2, 2]
    first, second = np.nonzero(np.triu(same.sum(axis=(2, 3)) == 1, k=1))  # [N] each
    column = same[first, second].any(axis=2).argmax(axis=1)  # [N], of the shared concept in the first pair
    return first, second, pairs[first, column]


def _match(composed: Tensor, expected: Tensor, others: Tensor, foreign: Tensor) -> Match:
    """Compare masks [N, D] with the expected ones [N, D], and with those of `others` [M, D] that are foreign [N, M]."""
    if not len(composed):
        return Match(None, None, None, 0)
    score = float(_overlap_of_rows(composed, expected).mean())
    known = foreign.any(dim=1)  # [N]
    if not bool(known.any()):
        return Match(score, None, None, len(composed))
    # Average within each row first, so that a concept with many foreign texts counts no more than another.
    sums = torch.where(foreign, overlap(composed, others), 0.0).sum(dim=1)[known]
    chance = float((sums / foreign.sum(dim=1)[known]).mean())
    excess = (score - chance) / (1 - chance) if chance < 1 else 0.0
    return Match(score, chance, excess, len(composed))


def _checked(masks: Tensor) -> Tensor:
    masks = masks.detach().double().cpu()
    if masks.ndim != 2 or not bool(((masks >= 0) & (masks <= 1)).all()):  # comparisons with NaN are False
        raise ValueError("masks have to be [texts, dimensions] with entries in [0, 1]")
    return masks
