from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from clipalign.core.distributed import Ranks
from clipalign.core.types import Preprocess
from clipalign.data.batches import TrainBatches, plan_batch
from clipalign.data.sources.folder import ImageFolder
from clipalign.protocols import build_episode

PREPROCESS = Preprocess((32, 32), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


def test_domains_have_equal_shares_and_the_rest_goes_round() -> None:
    rows = [np.arange(10), np.arange(100, 103), np.arange(200, 250)]
    counts = np.zeros(3, int)
    for step in range(30):
        batch = plan_batch(rows, 7, seed=0, step=step)
        shares = np.bincount(batch // 100, minlength=3)
        assert sorted(shares) == [2, 2, 3]
        counts += shares
    assert counts.tolist() == [70, 70, 70]


def test_rows_are_drawn_uniformly() -> None:
    drawn = Counter(int(row) for step in range(2000) for row in plan_batch([np.arange(5)], 5, 1, step))
    expected = 2000
    chi_square = sum((count - expected) ** 2 / expected for count in drawn.values())
    assert len(drawn) == 5 and chi_square < 18.5  # 0.1 % of the chi-square with 4 degrees of freedom


@pytest.mark.parametrize("world", [2, 3])
def test_a_batch_depends_on_seed_and_step_alone(squares: ImageFolder, world: int) -> None:
    episode = build_episode("domain-shift", squares, "grey", 0)
    whole = TrainBatches(episode, 7, seed=3, preprocess=PREPROCESS)[5]
    again = TrainBatches(episode, 7, seed=3, preprocess=PREPROCESS)[5]
    parts = [TrainBatches(episode, 7, 3, PREPROCESS, Ranks(rank, world))[5] for rank in range(world)]
    assert torch.equal(whole.images, again.images)
    assert torch.equal(whole.images, torch.cat([part.images for part in parts]))
    assert torch.equal(whole.rows, torch.cat([part.rows for part in parts]))
    assert not torch.equal(whole.rows, TrainBatches(episode, 7, seed=4, preprocess=PREPROCESS)[5].rows)
    assert len({len(part) for part in parts}) <= 2


def test_labels_are_positions_among_the_training_classes(squares: ImageFolder) -> None:
    episode = build_episode("in-the-wild", squares, "grey", 0)
    batch = TrainBatches(episode, 24, 0, PREPROCESS)[0]
    names = [episode.class_names[label] for label in batch.labels]
    assert names == [squares.class_names[squares.labels[row]] for row in batch.rows]
    assert set(batch.domains.tolist()) == set(episode.train_domains)
    assert set(batch.rows.tolist()) <= set(episode.train_rows.tolist())


def test_workers_change_nothing(squares: ImageFolder) -> None:
    steps = TrainBatches(build_episode("domain-shift", squares, "grey", 0), 4, 0, PREPROCESS)
    alone, helped = list(steps.iterate(2, 6)), list(steps.iterate(2, 6, workers=2))
    assert len(alone) == len(helped) == 4
    assert all(torch.equal(a.images, b.images) for a, b in zip(alone, helped, strict=True))
