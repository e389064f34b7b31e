"""Fixed views in memory, so that validations, label spaces and the runs of a sweep decode them once."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..core.types import Preprocess, Source, Stage

Key = tuple[int, Preprocess, Stage, int, int]  # id of the source, preprocessing, stage, row, draw


class ViewCache:
    """Evaluation views of any sources, up to a limit.

    The cache keeps the first views it sees. Evaluation repeats the same rows in the same order, for which evicting the
    least recently used view would lose each view just before its next use.

    Attributes:
        limit: bytes; may be changed between two calls.
        used: bytes of the cached views.
    """

    def __init__(self, limit: float) -> None:
        self.limit, self.used = limit, 0
        self._views: dict[Key, Tensor] = {}
        self._sources: dict[
            int, Source
        ] = {}  # keeps the sources alive, so that no other object gets their ids

    def images(
        self, source: Source, rows: np.ndarray, stage: Stage, draws: np.ndarray, preprocess: Preprocess
    ) -> Tensor:
        """Return `source.images` of fixed views, [n, 3, H, W], from the cache if possible."""
        if self.limit <= 0:
            return source.images(rows, stage, draws, 0, preprocess)
        self._sources[id(source)] = source
        keys: list[Key] = [
            (id(source), preprocess, stage, row, draw)
            for row, draw in zip(rows.tolist(), draws.tolist(), strict=True)
        ]
        missing = np.array([key not in self._views for key in keys], dtype=bool)  # [n]
        if missing.all():
            images = source.images(rows, stage, draws, 0, preprocess)
        else:
            cached = [self._views[key] for key, lacks in zip(keys, missing, strict=True) if not lacks]
            images = torch.empty(len(keys), *cached[0].shape, dtype=cached[0].dtype)  # [n, 3, H, W]
            images[torch.from_numpy(~missing)] = torch.stack(cached)
            if missing.any():
                images[torch.from_numpy(missing)] = source.images(
                    rows[missing], stage, draws[missing], 0, preprocess
                )
        for i in np.flatnonzero(missing).tolist():
            size = images[i].numel() * images[i].element_size()
            if self.used + size > self.limit:
                break
            self._views[keys[i]] = images[i].clone()
            self.used += size
        return images
