"""Fixed views in memory, so that validations, label spaces and the runs of a sweep decode and compose them once."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..core.types import Preprocess, Source, Stage

View = tuple[int, Preprocess, Stage, int, int]


class KeptViews:
    """Evaluation views of any sources, up to a limit.

    Those that came first stay. Evaluation goes through the same rows in the same order again and again: forgetting
    the oldest would lose each view just before it is asked for again.

    Attributes:
        limit: bytes; may be changed between two calls.
        used: bytes of the views that are kept.
    """

    def __init__(self, limit: float) -> None:
        self.limit, self.used = limit, 0
        self._views: dict[View, Tensor] = {}
        self._sources: dict[int, Source] = {}  # held, so that no other object gets their ids

    def images(
        self, source: Source, rows: np.ndarray, stage: Stage, draws: np.ndarray, preprocess: Preprocess
    ) -> Tensor:
        """What `source.images` gives for fixed views, to the bit: [n, 3, H, W]."""
        if self.limit <= 0:
            return source.images(rows, stage, draws, 0, preprocess)
        self._sources[id(source)] = source
        keys: list[View] = [
            (id(source), preprocess, stage, row, draw)
            for row, draw in zip(rows.tolist(), draws.tolist(), strict=True)
        ]
        lacking = np.array([key not in self._views for key in keys], dtype=bool)
        if lacking.all():
            images = source.images(rows, stage, draws, 0, preprocess)
        else:
            known = [self._views[key] for key, lacks in zip(keys, lacking, strict=True) if not lacks]
            images = torch.empty(len(keys), *known[0].shape, dtype=known[0].dtype)
            images[torch.from_numpy(~lacking)] = torch.stack(known)
            if lacking.any():
                images[torch.from_numpy(lacking)] = source.images(
                    rows[lacking], stage, draws[lacking], 0, preprocess
                )
        for i in np.flatnonzero(lacking).tolist():
            size = images[i].numel() * images[i].element_size()
            if self.used + size > self.limit:
                break
            self._views[keys[i]] = images[i].clone()
            self.used += size
        return images
