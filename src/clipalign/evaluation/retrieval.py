"""Recall of image-text retrieval, counted rank by rank, so that no score is kept longer than its block.

Definitions (those of CLIP_benchmark and Long-CLIP): text to image, the share of captions whose image is among the k
best images; image to text, the share of images of which *at least one* own caption is among the k best captions.
The rank of a query is one more than the number of wrong items that score above its best right one. Ties are decided
by neither luck nor order: a hit is the mean of the one where every tie is lost and the one where every tie is won.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from ..core.errors import UserError
from ..runs.results import DIRECTIONS, RECALL_AT, recall_field


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
    """Recall@k in both directions.

    Scores are cosines, computed in float64 on the device of `images` and rounded to float32, so that equal items tie
    and the result does not depend on `chunk`. Peak memory is a few [chunk, chunk] blocks beside the inputs.

    Args:
        images: [n, D] features, not normalised.
        texts: [T, D] unit features.
        owner: [T] int64 in [0, n), the image that each text was written for. Images without a text are found
            among, but not asked for.
        relevant: [T, n] bool, every image that a text is true of, where known; then also the recall that counts
            any of them as right.
        masks: [T, D] in [0, 1], dimensions that each text speaks about, where the method has them; then also the
            recall of the score <I * m, t> / |I * m| (SmartCLIP's training score; 0 where nothing is left of I).
        ks: how many best items count.
        chunk: rows and columns of a block of scores.

    Returns:
        "text_to_image_recall@k" and "image_to_text_recall@k" in [0, 1]; with `masks` the same with "masked_" before
        them, with `relevant` with "relevant_" (plain scores).

    Raises:
        UserError: features that are not finite.
        ValueError: shapes that do not fit.
    """
    if images.ndim != 2 or texts.shape != (len(owner), images.shape[1]) or not len(owner):
        raise ValueError(f"images {tuple(images.shape)}, texts {tuple(texts.shape)}, {len(owner)} owners")
    if owner.min() < 0 or owner.max() >= len(images):
        raise ValueError(f"owners from {owner.min()} to {owner.max()} of {len(images)} images")
    if masks is not None and masks.shape != texts.shape:
        raise ValueError(f"masks {tuple(masks.shape)} for texts {tuple(texts.shape)}")
    for what, features in (("image", images), ("text", texts), ("mask", masks)):
        if features is not None and not torch.isfinite(features).all():
            raise UserError(f"retrieval: {what} features are not finite; the model has diverged")
    if images.device.type == "mps":  # has no float64
        images = images.cpu()
    shape = (len(texts), len(images))
    own = csr_array((np.ones(len(owner), bool), (np.arange(len(owner)), owner)), shape=shape)
    right = {"": own} if relevant is None else {"": own, "relevant_": csr_array(relevant).astype(bool)}
    found = _recalls(_Scores(images, texts), right, ks, chunk)
    if masks is not None:
        found |= _recalls(_Scores(images, texts, masks), {"masked_": own}, ks, chunk)
    return found


@dataclass(frozen=True)
class _Scores:
    """Scores of any texts with any images, as float32."""

    images: Tensor
    texts: Tensor
    masks: Tensor | None = None

    def block(self, texts: slice, images: slice) -> Tensor:
        """[texts, images]; with masks in two products, so that no [texts, images, D] is formed."""
        x, t = self._unit(self.images[images]), self._double(self.texts[texts])
        if self.masks is None:
            return (t @ x.T).float()
        m = self._double(self.masks[texts])
        return self._over((m * t) @ x.T, (m * m) @ (x * x).T)

    def pairs(self, texts: np.ndarray, images: np.ndarray) -> Tensor:
        """[pairs], one text with one image each."""
        x, t = self._unit(self.images[images]), self._double(self.texts[texts])
        if self.masks is None:
            return (t * x).sum(1).float()
        x = x * self._double(self.masks[texts])
        return self._over((x * t).sum(1), (x * x).sum(1))

    def _double(self, features: Tensor) -> Tensor:
        return features.to(self.images.device).double()

    def _unit(self, features: Tensor) -> Tensor:
        return torch.nn.functional.normalize(features.double(), dim=1)

    @staticmethod
    def _over(products: Tensor, squares: Tensor) -> Tensor:
        """Products over norms; 0 where a norm is."""
        return torch.where(squares > 0, products / squares.sqrt(), 0).float()


@dataclass
class _Ranks:
    """What is known of every text's rank among images, or of every image's among texts.

    Attributes:
        best: [q] score of the best right item; -inf for what has none and is not asked for.
        above: [q] wrong items with a higher score. level: [q] those with the same one.
    """

    best: Tensor
    above: Tensor
    level: Tensor

    @classmethod
    def new(cls, queries: int, device: torch.device) -> _Ranks:
        """Nothing counted yet."""
        best = torch.full((queries,), -torch.inf, device=device)
        counts = torch.zeros(2, queries, dtype=torch.int64, device=device)
        return cls(best, counts[0], counts[1])

    def count(self, scores: Tensor, at: slice) -> None:
        """Add a block [queries at, items], in which right items are -inf."""
        best = self.best[at, None]
        self.above[at] += (scores > best).sum(1)
        self.level[at] += (scores == best).sum(1)

    def recall(self, k: int) -> float:
        """Mean over queries of the hit, halved where ties decide it."""
        asked = self.best > -torch.inf
        above, level = self.above[asked], self.level[asked]
        return float(((above < k).double() + (above + level < k).double()).mean() / 2)


def _recalls(scores: _Scores, right: dict[str, csr_array], ks: Sequence[int], chunk: int) -> dict[str, float]:
    """Recall under one kind of score, for each set of right items: {prefix: [T, n] bool}."""
    device = scores.images.device
    shape = (len(scores.texts), len(scores.images))
    ranks = {prefix: (_Ranks.new(shape[0], device), _Ranks.new(shape[1], device)) for prefix in right}
    for prefix, pairs in right.items():
        _best(scores, pairs, *ranks[prefix], chunk)
    for rows in _slices(shape[0], chunk):
        among = {prefix: csr_array(pairs[rows]) for prefix, pairs in right.items()}
        for columns in _slices(shape[1], chunk):
            block = scores.block(rows, columns)
            for prefix, (by_text, by_image) in ranks.items():
                text, image = among[prefix][:, columns].nonzero()
                wrong = block.clone()
                wrong[torch.from_numpy(text).long(), torch.from_numpy(image).long()] = -torch.inf
                by_text.count(wrong, rows)
                by_image.count(wrong.T, columns)
    return {
        prefix + recall_field(name, k): asked.recall(k)
        for prefix, pair in ranks.items()
        for name, asked in zip(DIRECTIONS, pair, strict=True)
        for k in ks
    }


def _best(scores: _Scores, right: csr_array, by_text: _Ranks, by_image: _Ranks, chunk: int) -> None:
    """Score of every query's best right item."""
    texts, images = right.nonzero()
    for part in _slices(len(texts), chunk):
        found = scores.pairs(texts[part], images[part])
        for ranks, at in ((by_text, texts), (by_image, images)):
            index = torch.from_numpy(at[part]).long().to(found.device)
            ranks.best.scatter_reduce_(0, index, found, "amax")


def _slices(length: int, chunk: int) -> Iterator[slice]:
    return (slice(start, min(start + chunk, length)) for start in range(0, length, chunk))
