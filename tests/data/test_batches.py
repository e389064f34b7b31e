from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clipalign.core.distributed import Ranks
from clipalign.core.errors import UserError
from clipalign.core.types import Episode, Preprocess
from clipalign.data.batches import CaptionTrainBatches, TrainBatches, plan_batch
from clipalign.data.registry import load_source
from clipalign.data.sources.folder import ImageFolder
from clipalign.protocols import build_episode

PREPROCESS = Preprocess((32, 32), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


def test_plan_batch_gives_domains_equal_shares_over_steps() -> None:
    rows = [np.arange(10), np.arange(100, 103), np.arange(200, 250)]
    counts = np.zeros(3, int)
    for step in range(30):
        batch = plan_batch(rows, 7, seed=0, step=step)
        shares = np.bincount(batch // 100, minlength=3)
        assert sorted(shares) == [2, 2, 3]
        counts += shares
    assert counts.tolist() == [70, 70, 70]


@given(st.integers(1, 6), st.integers(1, 40), st.integers(0, 99), st.integers(0, 99))
def test_plan_batch_shares_differ_by_at_most_one(domains: int, size: int, seed: int, step: int) -> None:
    rows = [100 * d + np.arange(3 + d) for d in range(domains)]
    batch = plan_batch(rows, size, seed, step)
    shares = np.bincount(batch // 100, minlength=domains)
    assert len(batch) == size and shares.max() - shares.min() <= 1
    assert set(batch.tolist()) <= set(np.concatenate(rows).tolist())


def test_plan_batch_draws_rows_uniformly() -> None:
    drawn = Counter(int(row) for step in range(2000) for row in plan_batch([np.arange(5)], 5, 1, step))
    expected = 2000
    chi_square = sum((count - expected) ** 2 / expected for count in drawn.values())
    assert len(drawn) == 5 and chi_square < 18.5  # 0.1 % of the chi-square with 4 degrees of freedom


@pytest.mark.parametrize("world", [2, 3])
def test_batch_depends_on_seed_and_step_not_on_processes(squares: ImageFolder, world: int) -> None:
    episode = build_episode("domain-shift", squares, "grey", 0)
    whole = TrainBatches(episode, 7, seed=3, preprocess=PREPROCESS)[5]
    again = TrainBatches(episode, 7, seed=3, preprocess=PREPROCESS)[5]
    parts = [TrainBatches(episode, 7, 3, PREPROCESS, Ranks(rank, world))[5] for rank in range(world)]
    assert torch.equal(whole.images, again.images)
    assert torch.equal(whole.images, torch.cat([part.images for part in parts]))
    assert torch.equal(whole.rows, torch.cat([part.rows for part in parts]))
    assert not torch.equal(whole.rows, TrainBatches(episode, 7, seed=4, preprocess=PREPROCESS)[5].rows)
    assert len({len(part) for part in parts}) <= 2


def test_batch_labels_are_positions_in_the_training_label_space(squares: ImageFolder) -> None:
    episode = build_episode("in-the-wild", squares, "grey", 0)
    batch = TrainBatches(episode, 24, 0, PREPROCESS)[0]
    names = [episode.class_names[label] for label in batch.labels]
    assert names == [squares.class_names[squares.labels[row]] for row in batch.rows]
    assert set(batch.domains.tolist()) == set(episode.train_domains)
    assert set(batch.rows.tolist()) <= set(episode.train_rows.tolist())


def test_caption_batches_show_every_image_once_per_epoch(captions_csv: Path, squares_folder: Path) -> None:
    episode = build_episode("retrieval", load_source(str(captions_csv), root=squares_folder), None)
    batches = CaptionTrainBatches(episode, 12, seed=1, preprocess=PREPROCESS, use="prefix")
    for epoch in range(2):
        plans = [batches.plan(3 * epoch + step) for step in range(3)]
        rows = np.concatenate([rows for rows, _ in plans])
        assert np.array_equal(np.sort(rows), episode.train_rows)
        for row, text in zip(rows.tolist(), [text for _, texts in plans for text in texts], strict=True):
            assert batches.source.texts[row][0].startswith(text)
    first, second = batches[0], CaptionTrainBatches(episode, 12, 1, PREPROCESS, Ranks(1, 2), "prefix")[0]
    assert first.captions is not None and first.captions[6:] == second.captions
    assert torch.equal(first.images[6:], second.images)


@pytest.fixture
def several_captions(captions_csv: Path, squares_folder: Path) -> Episode:
    """Return an episode in which every image has three captions, numbered by their order."""
    lines = captions_csv.read_text(encoding="utf-8").splitlines()
    path = squares_folder.parent / "several.csv"
    rows = [
        f"{image},Caption {number} of {image}. {text},{split}"
        for image, text, split in (line.split(",") for line in lines[1:])
        for number in range(3)
    ]
    path.write_text("\n".join([lines[0], *rows]) + "\n", encoding="utf-8")
    return build_episode("retrieval", load_source(str(path), root=squares_folder), None)


@pytest.mark.parametrize(("per_image", "numbers"), [(None, {0, 1, 2}), (2, {0, 1}), (1, {0})])
def test_caption_batches_draw_one_of_the_captions_of_an_image(
    several_captions: Episode, per_image: int | None, numbers: set[int]
) -> None:
    batches = CaptionTrainBatches(several_captions, 12, 1, PREPROCESS, per_image=per_image)
    drawn: dict[int, set[int]] = {}
    for step in range(90):
        rows, texts = batches.plan(step)
        for row, text in zip(rows.tolist(), texts, strict=True):
            assert text in batches.source.texts[row]
            drawn.setdefault(row, set()).add(batches.source.texts[row].index(text))
    assert set(drawn) == set(several_captions.train_rows.tolist())
    assert all(found == numbers for found in drawn.values())


def test_drawn_captions_depend_on_seed_and_step_only(several_captions: Episode) -> None:
    def texts(seed: int, step: int, ranks: Ranks | None = None) -> tuple[str, ...]:
        batch = CaptionTrainBatches(several_captions, 12, seed, PREPROCESS, ranks)[step]
        assert batch.captions is not None
        return batch.captions

    def numbers(seed: int, step: int) -> list[str]:
        return [text.split()[1] for text in texts(seed, step)]

    assert texts(1, 4) == texts(1, 4) == texts(1, 4, Ranks(0, 2)) + texts(1, 4, Ranks(1, 2))
    assert numbers(1, 4) != numbers(2, 4) and numbers(1, 4) != numbers(1, 5)


def test_caption_batches_need_as_many_images_as_a_batch(captions_csv: Path, squares_folder: Path) -> None:
    episode = build_episode("retrieval", load_source(str(captions_csv), root=squares_folder), None)
    with pytest.raises(UserError, match="--batch-size 37: only 36 images"):
        CaptionTrainBatches(episode, 37, 0, PREPROCESS)


def test_iterate_gives_the_same_batches_with_workers(squares: ImageFolder) -> None:
    batches = TrainBatches(build_episode("domain-shift", squares, "grey", 0), 4, 0, PREPROCESS)
    alone, helped = list(batches.iterate(2, 6)), list(batches.iterate(2, 6, workers=2))
    assert len(alone) == len(helped) == 4
    assert all(torch.equal(a.images, b.images) for a, b in zip(alone, helped, strict=True))
