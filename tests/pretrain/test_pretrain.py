"""Pre-training of the pocket model, on a handful of made-up drawings."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from clipalign.core.checkpoint import load_state
from clipalign.pretrain.art import KEPT_OUT, Art
from clipalign.pretrain.batches import Batches, _relation
from clipalign.pretrain.config import PretrainConfig, concept_weight, hardness, patch_dropout, rate
from clipalign.pretrain.learner import GrowingAverage, contrastive_loss
from clipalign.pretrain.restyle import restyle_colour, restyle_monotone, side_by_side


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Squares and discs by three artists, one of them kept out."""
    out = tmp_path_factory.mktemp("art")
    sprites, rows = [], []
    y, x = np.mgrid[:64, :64]
    for artist, colour in (("one", True), ("two", False), (KEPT_OUT, True)):
        for name, shape in (
            ("square", np.maximum(abs(x - 32), abs(y - 32)) < 26),
            ("disc", np.hypot(x - 32, y - 32) < 26),
        ):
            sprite = np.zeros((64, 64, 4), np.uint8)
            sprite[..., 3] = 255 * shape
            sprite[..., :3] = [200, 60, 60] if colour else 0
            sprites.append(sprite)
            rows.append({"set": artist, "name": name, "words": name, "concept": name, "colour": colour})
    sprites.append(sprites[0])
    rows.append({"set": "two", "name": "arrow-left", "words": "arrow left", "concept": None, "colour": False})
    np.save(out / "sprites.npy", np.stack(sprites))
    synonyms = {"square": ["square", "box"], "disc": ["disc"]}
    (out / "table.json").write_text(
        json.dumps({"rows": rows, "synonyms": synonyms, "sets": {}, "package": "none"})
    )
    return out


def test_batch_depends_on_seed_and_step_alone(folder: Path) -> None:
    art = Art.load(folder)
    batches = Batches(art, 8, 4, seed=3, total_steps=100)
    first, again = batches[7], Batches(art, 8, 4, seed=3, total_steps=100)[7]
    assert torch.equal(first.images, again.images) and first.texts == again.texts
    assert not torch.equal(first.images, batches[8].images)
    assert first.images.shape == (8, 3, 64, 64) and len(first.texts) == 12
    assert float(first.images.min()) >= 0 and float(first.images.max()) <= 1


def test_the_kept_out_set_is_never_drawn(folder: Path) -> None:
    art = Art.load(folder)
    rng = np.random.default_rng(0)
    drawn = {art.sets[art.sample(rng)] for _ in range(200)}
    assert drawn == {"one", "two"} and len(art.kept_out) == 2


def test_relation_marks_own_half_true_and_false_texts() -> None:
    relation = _relation([("a",), ("a", "b"), ("c",)], [("a",), ("b", "a"), ("c",), ("d",)])
    assert relation.tolist() == [[1, -1, 0, 0], [-1, 1, 0, 0], [0, 0, 1, 0]]


def test_contrastive_loss_equals_the_literal_sum() -> None:
    torch.manual_seed(0)
    images, texts = (
        F.normalize(torch.randn(3, 5, dtype=torch.float64), dim=1),
        F.normalize(torch.randn(5, 5).double(), dim=1),
    )
    relation = torch.tensor([[1, 0, 1, 0, -1], [0, 1, 0, 0, 0], [1, 0, 1, 1, 0]], dtype=torch.int8)
    scale = torch.tensor(7.0, dtype=torch.float64)
    by_image = by_text = 0.0
    for i in range(3):
        kept = [j for j in range(5) if relation[i, j] >= 0]
        total = sum(torch.exp(scale * images[i] @ texts[j]) for j in kept)
        positives = [j for j in kept if relation[i, j] == 1]
        by_image -= (
            sum(torch.log(torch.exp(scale * images[i] @ texts[j]) / total) for j in positives)
            / len(positives)
            / 3
        )
    for j in range(3):  # the first texts are the images' own captions
        kept = [i for i in range(3) if relation[i, j] >= 0]
        total = sum(torch.exp(scale * images[i] @ texts[j]) for i in kept)
        positives = [i for i in kept if relation[i, j] == 1]
        by_text -= (
            sum(torch.log(torch.exp(scale * images[i] @ texts[j]) / total) for i in positives)
            / len(positives)
            / 3
        )
    assert contrastive_loss(images, texts, relation, scale).item() == pytest.approx(
        float(by_image + by_text) / 2
    )


def test_plain_pairs_give_open_clips_loss() -> None:
    from open_clip.loss import ClipLoss

    images, texts = F.normalize(torch.randn(6, 8), dim=1), F.normalize(torch.randn(6, 8), dim=1)
    ours = contrastive_loss(images, texts, torch.eye(6), torch.tensor(10.0))
    assert ours.item() == pytest.approx(ClipLoss()(images, texts, torch.tensor(10.0)).item(), rel=1e-5)


@pytest.mark.parametrize("restyle", [restyle_colour, restyle_monotone])
def test_restyled_drawings_stay_drawings(folder: Path, restyle) -> None:
    sprite = Art.load(folder).tensor([1])[0].float() / 255
    for seed in range(40):
        picture, _ = restyle(sprite, np.random.default_rng(seed))
        assert picture.shape == sprite.shape
        assert float(picture.min()) >= 0 and float(picture.max()) <= 1
        assert float(picture[3].sum()) > 0.02 * float(sprite[3].sum())


def test_two_things_keep_to_their_halves(folder: Path) -> None:
    square, disc = (Art.load(folder).tensor([i])[0].float() / 255 for i in (0, 1))
    both = side_by_side(square, disc, np.random.default_rng(0))
    assert both.shape == square.shape
    expected = (square[3].sum() + disc[3].sum()) / 4
    assert float(both[3].sum()) == pytest.approx(float(expected), rel=0.01)


def test_rate_rises_stays_and_falls() -> None:
    config = PretrainConfig(steps=100, warmup_steps=10, cooldown=0.2)
    rates = [rate(step, config) for step in range(100)]
    assert rates[0] == 0.1 and rates[9] == 1 and rates[50] == 1 and rates[79] == 1
    assert all(a > b for a, b in pairwise(rates[80:])) and rates[-1] < 0.05


def test_rate_and_average_start_anew_where_a_finished_run_goes_on() -> None:
    config = PretrainConfig(steps=300, start_step=100, warmup_steps=10, cooldown=0.2)
    assert [rate(step, config) for step in (100, 109, 110, 239)] == [0.1, 1, 1, 1]
    assert rate(270, config) == pytest.approx(1 - 0.5**0.5)


def test_pictures_get_harder_until_half_way_while_concepts_fade() -> None:
    config = PretrainConfig(steps=100, concept_weight=3.0)
    assert [hardness(step, 100) for step in (0, 25, 50, 99)] == [0, 0.5, 1, 1]
    assert [concept_weight(step, config) for step in (0, 25, 50, 99)] == [3, 1.5, 0, 0]


def test_no_patch_is_left_out_in_the_cooldown() -> None:
    config = PretrainConfig(steps=100, cooldown=0.25, patch_dropout=0.4)
    assert [patch_dropout(step, config) for step in (0, 74, 75, 99)] == [0.4, 0.4, 0, 0]


def test_the_average_forgets_its_random_start() -> None:
    weight = torch.zeros(1)
    average, known = GrowingAverage([weight], 0.9), 0.0
    for step in range(1, 200):
        weight.fill_(step)
        average.update(step)
        decay = min(0.9, step / (9 + step))
        known = decay * known + (1 - decay) * step
        assert average.average[0].item() == pytest.approx(known, rel=1e-5)


def test_a_stopped_run_goes_on(folder: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "clipalign.pretrain",
        "--art",
        str(folder),
        "--out",
        str(tmp_path / "run"),
    ]
    command += [
        "--batch-size",
        "4",
        "--other-names",
        "2",
        "--steps",
        "3",
        "--save-every",
        "0",
        "--threads",
        "1",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert load_state(tmp_path / "run" / "state.safetensors")["step"] == 3
    weights = load_file(tmp_path / "run" / "pocket.safetensors")
    assert weights["visual.conv1.weight"].dtype == torch.float16
    again = subprocess.run([*command, "--steps", "4"], capture_output=True, text=True)
    assert "resumed at step 3" in again.stdout, again.stderr
    assert load_state(tmp_path / "run" / "state.safetensors")["step"] == 4
