"""Recall at k of image-text retrieval, in both directions.

Definitions are those of CLIP_benchmark and Long-CLIP. Text to image: share of captions whose image is among the k best
images. Image to text: share of images with *at least one* of their captions among the k best captions. The rank of a
query is one plus the number of wrong items that score above its best right item. Ties do not depend on the order of
items: a hit is the mean of the hits with all ties lost and with all ties won.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn import functional as F

from ...core.errors import UserError
from ..outputs import RetrievalOutputs
from . import METRICS
from .base import Field, RetrievalMetric

DIRECTIONS = {"text_to_image": "T2I", "image_to_text": "I2T"}  # name in fields -> name in tables
RECALL_AT = (1, 5, 10)
# Prefix of the fields -> variant of the test set in tables, and the sentence that defines it.
VARIANTS = {
    "": (
        "",
        "Recall in percent. T2I: captions whose image is among the k best images. I2T: images with at least one of "
        "their captions among the k best captions. A hit that ties decide counts half.",
    ),
    "relevant_": (
        "any relevant",
        "Any relevant: every image that matches a caption counts as correct, not only the one it was written for.",
    ),
    "masked_": (
        "masked",
        "Masked: images are scored in the dimensions that the mask of each caption keeps (unlike the published "
        "evaluation of SmartCLIP, which drops the masks).",
    ),
}


def recall_field(direction: str, k: int, prefix: str = "") -> str:
    """Return the field name of a recall.

    >>> recall_field("text_to_image", 1), recall_field("image_to_text", 5, "masked_")
    ('text_to_image_recall@1', 'masked_image_to_text_recall@5')
    """
    return f"{prefix}{direction}_recall@{k}"


@METRICS.register("recall")
class Recall(RetrievalMetric):
    """Recall at 1, 5 and 10 by cosine; also by relevance and by masked cosine if the data and the method allow it."""

    fields = tuple(
        Field(
            recall_field(direction, k, prefix),
            f"{short} R@{k}",
            variant=variant,
            note=note,
            headline=not prefix and k == 1,
        )
        for prefix, (variant, note) in VARIANTS.items()
        for direction, short in DIRECTIONS.items()
        for k in RECALL_AT
    )

    def compute(self, outputs: RetrievalOutputs) -> dict[str, float]:
        return recalls(
            outputs.images, outputs.texts, outputs.owner, relevant=outputs.relevant, masks=outputs.masks
        )


def recalls(
    images: Tensor,
    texts: Tensor,
    owner: np.ndarray,
    *,
    relevant: csr_array | None = None,
    masks: Tensor | None = None,
    ks: Sequence[int] = RECALL_AT,
    chunk: int = 4096,
) -> dict[str, float]:
    """Return recall@k in both directions.

    Scores are cosines, computed in float64 on the device of `images` and rounded to float32, so that equal items tie
    and the result does not depend on `chunk`. Peak memory is a few [chunk, chunk] blocks beside the inputs.

    Args:
        images: [n, d] features, not normalised.
        texts: [T, d] features, L2-normalised.
        owner: [T] int64 in [0, n), the image that each caption was written for. Images without a caption are
            candidates, but not queries.
        relevant: [T, n] bool, every image that matches a caption.
        masks: [T, d] in [0, 1], dimensions that each caption refers to.
        ks: numbers of best items that count.
        chunk: rows and columns of a block of scores.

    Returns:
        "text_to_image_recall@k" and "image_to_text_recall@k" in [0, 1]. With `relevant`, the same prefixed with
        "relevant_", where any relevant image is right. With `masks`, the same prefixed with "masked_", for the score
        <I * m, t> / |I * m| (SmartCLIP's training score; 0 if I * m is 0).

    Raises:
        UserError: features are not finite.
        ValueError: shapes do not match.

    Example:
        >>> recalls(torch.eye(2), torch.eye(2), np.array([0, 1]), ks=(1,))
        {'text_to_image_recall@1': 1.0, 'image_to_text_recall@1': 1.0}
    """
    if images.ndim != 2 or texts.shape != (len(owner), images.shape[1]) or not len(owner):
        raise ValueError(f"images {tuple(images.shape)}, texts {tuple(texts.shape)}, {len(owner)} owners")
    if owner.min() < 0 or owner.max() >= len(images):
        raise ValueError(f"owners from {owner.min()} to {owner.max()} for {len(images)} images")
    if masks is not None and masks.shape != texts.shape:
        raise ValueError(f"masks {tuple(masks.shape)} for texts {tuple(texts.shape)}")
    for kind, features in (("image", images), ("text", texts), ("mask", masks)):
        if features is not None and not torch.isfinite(features).all():
            raise UserError(f"retrieval: {kind} features are not finite; the model has diverged")
    if images.device.type == "mps":  # has no float64
        images = images.cpu()
    shape = (len(texts), len(images))
    own = csr_array((np.ones(len(owner), bool), (np.arange(len(owner)), owner)), shape=shape)
    right = {"": own} if relevant is None else {"": own, "relevant_": csr_array(relevant).astype(bool)}
    values = _recalls(_Scores(images, texts), right, ks, chunk)
    if masks is not None:
        values |= _recalls(_Scores(images, texts, masks), {"masked_": own}, ks, chunk)
    return values


@dataclass(frozen=True)
class _Scores:
    """Scores of any captions with any images, in float32."""

    images: Tensor
    texts: Tensor
    masks: Tensor | None = None

    def block(self, texts: slice, images: slice) -> Tensor:
        """Return the scores of all pairs of two slices, [t, i]."""
        x, t = self._unit(self.images[images]), self._double(self.texts[texts])  # [i, d], [t, d]
        if self.masks is None:
            return (t @ x.T).float()  # [t, i]
        # Two products instead of x * m, which would be [t, i, d].
        m = self._double(self.masks[texts])  # [t, d]
        return self._divide((m * t) @ x.T, (m * m) @ (x * x).T)  # [t, i]

    def pairs(self, texts: np.ndarray, images: np.ndarray) -> Tensor:
        """Return the scores of [p] pairs."""
        x, t = self._unit(self.images[images]), self._double(self.texts[texts])  # [p, d] each
        if self.masks is None:
            return (t * x).sum(1).float()  # [p]
        x = x * self._double(self.masks[texts])  # [p, d]
        return self._divide((x * t).sum(1), (x * x).sum(1))  # [p]

    def _double(self, features: Tensor) -> Tensor:
        return features.to(self.images.device).double()

    def _unit(self, features: Tensor) -> Tensor:
        return F.normalize(features.double(), dim=1)

    @staticmethod
    def _divide(products: Tensor, squares: Tensor) -> Tensor:
        """Divide inner products by norms; 0 if the norm is 0."""
        return torch.where(squares > 0, products / squares.sqrt(), 0).float()


@dataclass
class _QueryRanks:
    """Ranks of queries: of each caption among images, or of each image among captions.

    Attributes:
        best: [q] score of the best right item; -inf for an item that is no query.
        above: [q] number of wrong items with a higher score.
        level: [q] number of wrong items with the same score.
    """

    best: Tensor
    above: Tensor
    level: Tensor

    @classmethod
    def empty(cls, queries: int, device: torch.device) -> _QueryRanks:
        """Return ranks before any item is counted."""
        best = torch.full((queries,), -torch.inf, device=device)
        counts = torch.zeros(2, queries, dtype=torch.int64, device=device)
        return cls(best, counts[0], counts[1])

    def count(self, scores: Tensor, queries: slice) -> None:
        """Add a block of scores [q, i], in which right items are -inf."""
        best = self.best[queries, None]  # [q, 1]
        self.above[queries] += (scores > best).sum(1)  # [q]
        self.level[queries] += (scores == best).sum(1)  # [q]

    def recall(self, k: int) -> float:
        """Return the mean hit over queries, where a hit that ties decide counts half."""
        query = self.best > -torch.inf  # [q]
        above, level = self.above[query], self.level[query]
        return float(((above < k).double() + (above + level < k).double()).mean() / 2)


def _recalls(
    scores: _Scores, right: Mapping[str, csr_array], ks: Sequence[int], chunk: int
) -> dict[str, float]:
    """Return recalls under one score, for each set of right items: prefix -> [T, n] bool."""
    device = scores.images.device
    shape = (len(scores.texts), len(scores.images))
    ranks = {
        prefix: (_QueryRanks.empty(shape[0], device), _QueryRanks.empty(shape[1], device)) for prefix in right
    }
    for prefix, pairs in right.items():
        _set_best(scores, pairs, *ranks[prefix], chunk)
    for rows in _slices(shape[0], chunk):
        right_rows = {prefix: csr_array(pairs[rows]) for prefix, pairs in right.items()}
        for columns in _slices(shape[1], chunk):
            block = scores.block(rows, columns)  # [t, i]
            for prefix, (of_texts, of_images) in ranks.items():
                text, image = right_rows[prefix][:, columns].nonzero()
                wrong = block.clone()
                wrong[torch.from_numpy(text).long(), torch.from_numpy(image).long()] = -torch.inf
                of_texts.count(wrong, rows)
                of_images.count(wrong.T, columns)
    return {
        recall_field(direction, k, prefix): queries.recall(k)
        for prefix, both in ranks.items()
        for direction, queries in zip(DIRECTIONS, both, strict=True)
        for k in ks
    }


def _set_best(
    scores: _Scores, right: csr_array, of_texts: _QueryRanks, of_images: _QueryRanks, chunk: int
) -> None:
    """Set the score of every query's best right item."""
    texts, images = right.nonzero()  # [p] each
    for part in _slices(len(texts), chunk):
        values = scores.pairs(texts[part], images[part])  # [p]
        for ranks, queries in ((of_texts, texts), (of_images, images)):
            index = torch.from_numpy(queries[part]).long().to(values.device)
            ranks.best.scatter_reduce_(0, index, values, "amax")


def _slices(length: int, chunk: int) -> Iterator[slice]:
    return (slice(start, min(start + chunk, length)) for start in range(0, length, chunk))
