"""Training batches as a function of (seed, step), independent of processes, workers and resumption."""

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
from .captions.sentences import choose_caption, choose_text


def plan_batch(rows_by_domain: list[np.ndarray], batch_size: int, seed: int, step: int) -> np.ndarray:
    """Draw the rows of the global batch of a step.

    Each source domain gives an equal share, drawn uniformly with replacement as in DomainBed. The remainder goes to
    the domains in turn.

    Args:
        rows_by_domain: rows of each source domain, none empty.
        batch_size: images over all processes.
        seed: of the run.
        step: from 0.

    Returns:
        [batch_size] int64, domain by domain.
    """
    rng = np.random.default_rng([seed, step, 0])
    domains = len(rows_by_domain)
    share, remainder = divmod(batch_size, domains)
    extra = {(step * remainder + i) % domains for i in range(remainder)}
    return np.concatenate([rng.choice(rows, share + (d in extra)) for d, rows in enumerate(rows_by_domain)])


class TrainBatches(Dataset[Batch]):
    """Map from step to batch. Each process gets its share of the global batch.

    Args:
        episode: training rows and label space.
        batch_size: images per step over all processes.
        seed: of rows and views.
        preprocess: input size and normalisation of the backbone.
        ranks: this process among all.
    """

    def __init__(
        self, episode: Episode, batch_size: int, seed: int, preprocess: Preprocess, ranks: Ranks | None = None
    ) -> None:
        self.episode, self.batch_size, self.seed, self.preprocess = episode, batch_size, seed, preprocess
        self.ranks = ranks or Ranks()
        rows, domains = episode.train_rows, episode.source.domains[episode.train_rows]
        self.rows_by_domain = [rows[domains == d] for d in episode.train_domains]
        # Class of the source -> position in the training label space; -1: not in it.
        self.position = np.full(len(episode.source.class_names), -1)
        self.position[list(episode.train_classes)] = np.arange(len(episode.train_classes))

    def __getitem__(self, step: int) -> Batch:
        rows = plan_batch(self.rows_by_domain, self.batch_size, self.seed, step)
        local = self.ranks.share(self.batch_size)
        return self.batch(rows[local], self.draws(step)[local])

    def draws(self, step: int) -> np.ndarray:
        """Return the positions of a step's views in the whole run, [batch_size] int64.

        Random views depend on them, not on the process that makes the view.
        """
        return step * self.batch_size + np.arange(self.batch_size)

    def batch(self, rows: np.ndarray, draws: np.ndarray) -> Batch:
        """Return the random views `draws` of `rows`, both [n] int64."""
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
        """Yield the batches of steps `first` to `end - 1`, prepared by `workers` processes (0: in this one)."""
        if workers == 0:
            return (self[step] for step in range(first, end))
        # batch_size=None: each item is a whole batch already.
        loader = DataLoader(
            self, batch_size=None, sampler=range(first, end), num_workers=workers, collate_fn=_identity
        )
        return iter(loader)


class CaptionTrainBatches(TrainBatches):
    """Batches of distinct images with one caption each, drawn by (seed, step) if an image has several.

    Images come in a new order each epoch; fewer than a batch at its end are left out.

    Args:
        episode: of a `CaptionSource`.
        batch_size, seed, preprocess, ranks: see `TrainBatches`.
        use: the part of the drawn caption that a step uses.
        per_image: captions of an image to draw from, from the first; None for all.

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
        per_image: int | None = None,
    ) -> None:
        super().__init__(episode, batch_size, seed, preprocess, ranks)
        assert isinstance(episode.source, CaptionSource)
        self.source, self.use, self.per_image = episode.source, use, per_image
        if len(episode.train_rows) < batch_size:
            raise UserError(
                f"--batch-size {batch_size}: only {len(episode.train_rows)} images to train on, and a contrastive "
                "batch needs distinct images"
            )
        # Number and order of the current epoch.
        self._epoch: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    def plan(self, step: int) -> tuple[np.ndarray, tuple[str, ...]]:
        """Return the rows of a step's global batch, [batch_size] int64, and the text of each."""
        rows = self.episode.train_rows
        epoch, number = divmod(step, len(rows) // self.batch_size)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, np.random.default_rng([self.seed, epoch, 2]).permutation(rows))
        chosen = self._epoch[1][number * self.batch_size : (number + 1) * self.batch_size]
        rng = np.random.default_rng([self.seed, step, 3])
        return chosen, tuple(self.text(row, rng) for row in chosen.tolist())

    def text(self, row: int, rng: np.random.Generator) -> str:
        """Draw one of the captions of a row, and the part of it that a step uses."""
        return choose_text(choose_caption(self.source.texts[row], self.per_image, rng), self.use, rng)

    def __getitem__(self, step: int) -> Batch:
        rows, texts = self.plan(step)
        local = self.ranks.share(self.batch_size)
        return replace(self.batch(rows[local], self.draws(step)[local]), captions=texts[local])


def _identity(batch: Any) -> Any:
    return batch
