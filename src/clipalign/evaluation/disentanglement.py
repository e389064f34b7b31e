"""Do masks take concepts apart? SmartCLIP's Theorem 4.3 as numbers.

The theorem (Xie et al., SmartCLIP, CVPR 2025, arXiv 2507.22264) says that concepts of any granularity are identified
through unions and intersections of masks. If that is so, the mask of "a dog and a kite" is the union of those of "a
dog" and "a kite", and what the masks of "a dog and a kite" and "a dog and a bell" have in common is the mask of "a
dog". The paper does not measure this; the definitions here are this package's, with the reasons in
docs/disentanglement.md.

Masks are sets of dimensions, or fuzzy sets where they are soft: union is the larger, intersection the smaller entry,
size the sum. Overlap is Jaccard's, size of the intersection over size of the union; two empty masks are equal and
overlap by 1. A wide mask overlaps with everything, so every match is set against chance: the same comparison with
texts about other things.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

ROWS = 1024  # of a block of overlaps


@dataclass(frozen=True)
class Active:
    """How wide masks are. A dimension is active from 0.5 on.

    Attributes:
        mean, minimum, maximum: active dimensions per text.
        size: mean sum of entries, which is what the sparsity term sees (of hard masks equal to `mean`).
        dimensions: D.
        empty, full: share of texts with no and with every dimension active.
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
    """Overlap of masks of concepts that share a label, and of others.

    Attributes:
        related, unrelated: mean overlap over pairs of different concepts; None without such pairs.
        auroc: probability that a related pair overlaps more than an unrelated one, ties half; None where one of
            the two kinds is missing. 0.5 for masks that know nothing of the label.
        related_pairs, unrelated_pairs: counted without order.
    """

    related: float | None
    unrelated: float | None
    auroc: float | None
    related_pairs: int
    unrelated_pairs: int


@dataclass(frozen=True)
class Match:
    """How well masks that were put together match the one they should be.

    Attributes:
        score: mean overlap of the two; None without comparisons.
        chance: mean overlap with the mask of texts that have no concept in common with them; None without such.
        excess: (score - chance) / (1 - chance): 1 for perfect matches, 0 for no better than chance; 0 where
            chance is 1, as for masks that are all alike. None where chance is.
        count: comparisons.
    """

    score: float | None
    chance: float | None
    excess: float | None
    count: int


@dataclass(frozen=True)
class Disentanglement:
    """All of it.

    Attributes:
        single, joined: widths of the masks of one concept, and of two.
        relations: by name of the label.
        union: m_a with m_b added, against m_ab.
        intersection: what m_ab and m_ac share, against m_a.
    """

    single: Active
    joined: Active
    relations: Mapping[str, Relation]
    union: Match
    intersection: Match


def disentanglement(
    single: Tensor, joined: Tensor, pairs: np.ndarray, labels: Mapping[str, Sequence[str]]
) -> Disentanglement:
    """Measure the masks of single concepts and of pairs of them.

    Args:
        single: [C, D] masks in [0, 1] of texts with one concept each.
        joined: [P, D] masks of texts with two.
        pairs: [P, 2] int, rows of `single` that each joined text speaks of; two different ones.
        labels: name -> label of each concept, equal for related ones.

    Raises:
        ValueError: shapes that do not fit, masks outside of [0, 1] or not finite, a concept paired with itself.
    """
    pairs = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
    single, joined = _checked(single), _checked(joined)
    if joined.shape != (len(pairs), single.shape[1]):
        raise ValueError(
            f"{tuple(joined.shape)} joined masks for {len(pairs)} pairs of {single.shape[1]} dimensions"
        )
    if len(pairs) and (pairs.min() < 0 or pairs.max() >= len(single) or (pairs[:, 0] == pairs[:, 1]).any()):
        raise ValueError("pairs: each has to name two different rows of the single masks")
    return Disentanglement(
        active(single),
        active(joined),
        {name: _relation(single, values) for name, values in labels.items()},
        _union(single, joined, pairs),
        _intersection(single, joined, pairs),
    )


def active(masks: Tensor) -> Active:
    """Widths of masks [T, D]; all 0 where there are none."""
    on = (masks >= 0.5).sum(dim=1)
    if not len(masks):
        return Active(0.0, 0, 0, 0.0, masks.shape[1], 0.0, 0.0)
    return Active(
        float(on.double().mean()),
        int(on.min()),
        int(on.max()),
        float(masks.double().sum(dim=1).mean()),
        masks.shape[1],
        float((on == 0).double().mean()),
        float((on == masks.shape[1]).double().mean()),
    )


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Jaccard overlap of every mask with every other: sum of minima over sum of maxima.

    Args:
        a: [A, D] in [0, 1]. b: [B, D].

    Returns:
        [A, B] float64 in [0, 1]; 1 for two empty masks.
    """
    a, b = a.double(), b.double()
    blocks = []
    for rows in a.split(ROWS):
        # min = (x + y - |x - y|) / 2 and max = (x + y + |x - y|) / 2, so that [A, B, D] is never formed.
        sizes = rows.sum(dim=1)[:, None] + b.sum(dim=1)
        apart = torch.cdist(rows, b, p=1.0)
        blocks.append(_ratio(sizes - apart, sizes + apart))
    return torch.cat(blocks) if blocks else a.new_zeros(0, len(b))


def _overlap_of_rows(a: Tensor, b: Tensor) -> Tensor:
    return _ratio(torch.minimum(a, b).sum(dim=1), torch.maximum(a, b).sum(dim=1))


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    tiny = torch.finfo(whole.dtype).tiny
    return torch.where(whole > 0, part / whole.clamp_min(tiny), 1.0).clamp(0, 1)


def _relation(masks: Tensor, labels: Sequence[str]) -> Relation:
    if len(labels) != len(masks):
        raise ValueError(f"{len(labels)} labels for {len(masks)} concepts")
    first, second = np.triu_indices(len(masks), k=1)
    values = overlap(masks, masks).numpy()[first, second]
    same = np.array(tuple(labels))[first] == np.array(tuple(labels))[second]
    parts = values[same], values[~same]
    # To 12 digits, or rounding of soft masks would put equal overlaps in an order.
    known = bool(same.any() and not same.all())
    auroc = float(roc_auc_score(same, values.round(12))) if known else None
    related, unrelated = (float(part.mean()) if len(part) else None for part in parts)
    return Relation(related, unrelated, auroc, len(parts[0]), len(parts[1]))


def _union(single: Tensor, joined: Tensor, pairs: np.ndarray) -> Match:
    together = torch.maximum(single[pairs[:, 0]], single[pairs[:, 1]])
    foreign = ~(pairs[:, None, :, None] == pairs[None, :, None, :]).any(axis=(2, 3))
    return _match(together, joined, joined, torch.from_numpy(foreign))


def _intersection(single: Tensor, joined: Tensor, pairs: np.ndarray) -> Match:
    first, second, shared = _with_one_in_common(pairs)
    common = torch.minimum(joined[first], joined[second])
    foreign = np.ones((len(first), len(single)), dtype=bool)
    for side in (pairs[first], pairs[second]):
        np.put_along_axis(foreign, side, False, axis=1)
    return _match(common, single[shared], single, torch.from_numpy(foreign))


def _with_one_in_common(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of `pairs` that share exactly one concept, and that concept: three arrays of one length."""
    same = pairs[:, None, :, None] == pairs[None, :, None, :]  # [P, P, 2, 2]
    first, second = np.nonzero(np.triu(same.sum(axis=(2, 3)) == 1, k=1))
    which = (
        same[first, second].any(axis=2).argmax(axis=1)
    )  # the place of the shared concept in the first pair
    shared = pairs[first, which]
    return first, second, shared


def _match(found: Tensor, right: Tensor, others: Tensor, foreign: Tensor) -> Match:
    """Rows of `found` against those of `right`, and against the `others` that are foreign to each [n, m]."""
    if not len(found):
        return Match(None, None, None, 0)
    score = float(_overlap_of_rows(found, right).mean())
    # The mean within each row first, so that a concept with many foreign texts counts no more than another.
    known = foreign.any(dim=1)
    if not bool(known.any()):
        return Match(score, None, None, len(found))
    sums = torch.where(foreign, overlap(found, others), 0.0).sum(dim=1)[known]
    chance = float((sums / foreign.sum(dim=1)[known]).mean())
    excess = (score - chance) / (1 - chance) if chance < 1 else 0.0
    return Match(score, chance, excess, len(found))


def _checked(masks: Tensor) -> Tensor:
    masks = masks.detach().double().cpu()
    if masks.ndim != 2 or not bool(((masks >= 0) & (masks <= 1)).all()):  # NaN is neither
        raise ValueError("masks have to be [texts, dimensions] with entries in [0, 1]")
    return masks
