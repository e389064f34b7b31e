"""Training batches as a function of (seed, step): the same whoever makes them, wherever a run starts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ..core.distributed import Ranks
from ..core.errors import UserError
from ..core.types import Batch, CaptionSource, CaptionUse, Episode, Preprocess
from .captions.sentences import choose


def plan_batch(rows_by_domain: list[np.ndarray], batch_size: int, seed: int, step: int) -> np.ndarray:
    """Rows of the global batch of a step (from 0).

    Each source domain gives an equal share, drawn uniformly with replacement as in DomainBed; what does not
    divide goes to the domains in turn.

    Args:
        rows_by_domain: rows of each source domain, none empty.
        batch_size: images over all processes.

    Returns:
        [batch_size] int64.
    """
    rng = np.random.default_rng([seed, step, 0])
    domains = len(rows_by_domain)
    share, rest = divmod(batch_size, domains)
    extra = {(step * rest + i) % domains for i in range(rest)}
    return np.concatenate([rng.choice(rows, share + (d in extra)) for d, rows in enumerate(rows_by_domain)])


class TrainBatches(Dataset[Batch]):
    """A map from step to batch; a process sees its own share of each.

    Args:
        episode: training rows and label space.
        batch_size: images per step over all processes.
        seed: of rows and views.
        preprocess: what the backbone wants to see.
        ranks: which share.
    """

    def __init__(
        self, episode: Episode, batch_size: int, seed: int, preprocess: Preprocess, ranks: Ranks | None = None
    ) -> None:
        self.episode, self.batch_size, self.seed, self.preprocess = episode, batch_size, seed, preprocess
        self.ranks = ranks or Ranks()
        rows, domains = episode.train_rows, episode.source.domains[episode.train_rows]
        self.rows_by_domain = [rows[domains == d] for d in episode.train_domains]
        self.position = np.full(len(episode.source.class_names), -1)
        self.position[list(episode.train_classes)] = np.arange(len(episode.train_classes))

    def __getitem__(self, step: int) -> Batch:
        rows = plan_batch(self.rows_by_domain, self.batch_size, self.seed, step)
        # A view depends on where it stands in the whole run, not on which process shows it.
        draws = step * self.batch_size + np.arange(self.batch_size)
        mine = self.ranks.share(self.batch_size)
        return self.batch(rows[mine], draws[mine])

    def batch(self, rows: np.ndarray, draws: np.ndarray) -> Batch:
        """Training views of rows; `draws` tells the views of a row apart."""
        source = self.episode.source
        captions = source.captions
        return Batch(
            images=source.images(rows, "train", draws, self.seed, self.preprocess),
            labels=torch.from_numpy(self.position[source.labels[rows]]),
            domains=torch.from_numpy(source.domains[rows]),
            rows=torch.from_numpy(rows),
            captions=None if captions is None else tuple(captions[row] for row in rows),
        )

    def iterate(self, first: int, end: int, workers: int = 0) -> Iterator[Batch]:
        """Batches of steps first to end - 1, prepared ahead by `workers` processes (0: none)."""
        if workers == 0:
            return (self[step] for step in range(first, end))
        return iter(
            DataLoader(
                self, batch_size=None, sampler=range(first, end), num_workers=workers, collate_fn=_same
            )
        )


class CaptionTrainBatches(TrainBatches):
    """Steps of images with one caption each, all images of a step different.

    Images come in a fresh order each epoch; what is left over at its end, less than a batch, waits for the next.

    Args:
        episode: of a `CaptionSource`.
        batch_size, seed, preprocess, ranks: see `TrainBatches`.
        use: how much of a row's first caption a step shows.

    Raises:
        UserError: fewer training rows than a batch.
    """

    def __init__(
        self,
        episode: Episode,
        batch_size: int,
        seed: int,
        preprocess: Preprocess,
        ranks: Ranks | None = None,
        use: CaptionUse = "long",
    ) -> None:
        super().__init__(episode, batch_size, seed, preprocess, ranks)
        assert isinstance(episode.source, CaptionSource)
        self.source, self.use = episode.source, use
        if len(episode.train_rows) < batch_size:
            raise UserError(
                f"--batch-size {batch_size}: only {len(episode.train_rows)} images to train on, and a batch of a "
                "contrastive loss shows each once"
            )
        self._epoch: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    def plan(self, step: int) -> tuple[np.ndarray, tuple[str, ...]]:
        """Rows [batch_size] of a step (from 0) and the text shown of each."""
        rows = self.episode.train_rows
        epoch, number = divmod(step, len(rows) // self.batch_size)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, np.random.default_rng([self.seed, epoch, 2]).permutation(rows))
        chosen = self._epoch[1][number * self.batch_size : (number + 1) * self.batch_size]
        rng = np.random.default_rng([self.seed, step, 3])
        return chosen, tuple(choose(self.source.texts[row][0], self.use, rng) for row in chosen.tolist())

    def __getitem__(self, step: int) -> Batch:
        rows, texts = self.plan(step)
        mine = self.ranks.share(self.batch_size)
        draws = step * self.batch_size + np.arange(self.batch_size)
        return replace(self.batch(rows[mine], draws[mine]), captions=texts[mine])


def _same(batch: Any) -> Any:
    return batch
