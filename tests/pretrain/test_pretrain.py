"""Pre-training of the pocket model on a handful of generated drawings."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from clipalign.core.checkpoint import load_state
from clipalign.data.builtin.pictograms import Pictograms
from pretrain import layout
from pretrain.atlas import KEPT_OUT, Atlas
from pretrain.batches import Batches
from pretrain.captions import Caption, Thing, contradict, place, relation, truth, write
from pretrain.card import CardConfig, gates, write_card
from pretrain.checks import check
from pretrain.config import PretrainConfig, concept_weight, hardness, lr_factor
from pretrain.layout import Background, Placed
from pretrain.learner import Learner, encode_by_length, image_tower, multi_positive_loss
from pretrain.model import build
from pretrain.render import render
from pretrain.restyle import restyle
from pretrain.teacher import WIDTHS, Teacher, teacher_loss
from pretrain.teacher import main as train_teacher
from pretrain.vocabulary import Vocabulary

ROOT = Path(__file__).resolve().parents[2]
TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 96, "patch_size": 8, "layers": 2, "width": 32, "head_width": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two icon sets for training and one kept out, each with six concepts."""
    out = tmp_path_factory.mktemp("art")
    sprites, rows = [], []
    y, x = np.mgrid[:64, :64]
    shapes = {
        "square": np.maximum(abs(x - 32), abs(y - 32)) < 26,
        "disc": np.hypot(x - 32, y - 32) < 26,
        "bar": abs(x - 32) < 8,
        "beam": abs(y - 32) < 8,
        "ring": abs(np.hypot(x - 32, y - 32) - 20) < 6,
        "slope": abs(x - y) < 10,
    }
    for artist, colour in (("one", True), ("two", False), (KEPT_OUT, True)):
        for name, shape in shapes.items():
            sprite = np.zeros((64, 64, 4), np.uint8)
            sprite[..., 3] = 255 * shape
            sprite[..., :3] = [200, 60, 60] if colour else 0
            sprites.append(sprite)
            rows.append({"set": artist, "name": name, "words": name, "concept": name, "colour": colour})
    sprites.append(sprites[0])
    rows.append({"set": "two", "name": "arrow-left", "words": "arrow left", "concept": None, "colour": False})
    np.save(out / "sprites.npy", np.stack(sprites))
    synonyms = {name: [name] for name in shapes} | {"square": ["square", "box"]}
    (out / "table.json").write_text(
        json.dumps({"rows": rows, "synonyms": synonyms, "sets": {}, "package": "none"})
    )
    return out


@pytest.fixture(scope="module")
def architecture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("architecture") / "pretrain-tiny.json"
    path.write_text(json.dumps(TINY))
    return path


@pytest.fixture(scope="module")
def atlas(folder: Path) -> Atlas:
    return Atlas.load(folder)


def make_learner(atlas: Atlas, architecture: Path, config: PretrainConfig) -> Learner:
    backbone = build(architecture)
    return Learner(config, backbone, Vocabulary(atlas, backbone.tokenizer), len(atlas.concepts))


def test_atlas_never_samples_the_kept_out_set(atlas: Atlas) -> None:
    rng = np.random.default_rng(0)
    sampled = {atlas.sets[atlas.sample(rng)] for _ in range(200)}
    assert sampled == {"one", "two"} and len(atlas.kept_out) == 6


def test_atlas_missing_art_names_the_build_command(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="build_pretraining_art"):
        Atlas.load(tmp_path)


def test_batch_depends_only_on_seed_and_step(atlas: Atlas, architecture: Path) -> None:
    config = PretrainConfig(batch_size=8, hard_negatives=4, seed=3, curriculum_steps=10)
    tokenize = Vocabulary(atlas, build(architecture).tokenizer)
    first, again = Batches(atlas, config, tokenize)[7], Batches(atlas, config, tokenize)[7]
    for name, value in vars(first).items():
        assert torch.equal(value, getattr(again, name)), name
    assert not torch.equal(first.images, Batches(atlas, config, tokenize)[8].images)
    assert first.images.shape == (8, 3, 96, 96)
    assert float(first.images.min()) >= 0 and float(first.images.max()) <= 1
    assert (first.caption_truth[:, :8].diagonal() == 1).all()
    assert first.region_mask.shape == (len(first.region_image), 144)
    assert (first.region_truth[torch.arange(len(first.region_name)), first.region_name] == 1).all()


def test_render_reports_which_part_of_each_drawing_is_visible() -> None:
    sprites = torch.zeros(2, 4, 64, 64)
    sprites[:, 3] = 1  # opaque squares: the back one black, the front one white
    sprites[1, :3] = 1
    placed = [Placed(0, 0, 0.5, 0.5, 0.5, 0.0, True), Placed(0, 1, 0.25, 0.375, 0.375, 0.0, True)]
    grey = Background("flat", np.full((2, 3), 0.5), 0.0, np.zeros((3, 2, 2)))
    images, visible, share = render(sprites, placed, [grey])
    assert share.tolist() == pytest.approx([0.75, 1.0], abs=0.02)
    assert float(visible[0].mean()) == pytest.approx(0.25 - 0.0625, abs=0.01)
    assert float(visible[1].mean()) == pytest.approx(0.0625, abs=0.005)
    assert images[0, :, 36, 36].tolist() == pytest.approx([1, 1, 1], abs=1e-3)  # front
    assert images[0, :, 60, 60].tolist() == pytest.approx([0, 0, 0], abs=1e-3)  # back
    assert images[0, :, 5, 5].tolist() == pytest.approx([0.5, 0.5, 0.5], abs=1e-3)  # background


@pytest.mark.parametrize("scale", [0.1, 0.3, 0.6])
def test_render_keeps_position_and_area_across_windows_and_mip_levels(scale: float) -> None:
    sprites = torch.ones(1, 4, 64, 64)
    black = Background("flat", np.zeros((2, 3)), 0.0, np.zeros((3, 2, 2)))
    _, visible, share = render(sprites, [Placed(0, 0, scale, 0.4, 0.55, 0.3, True)], [black])
    y, x = torch.meshgrid(torch.arange(96.0) + 0.5, torch.arange(96.0) + 0.5, indexing="ij")
    area = float(visible.sum())
    assert area == pytest.approx((scale * 96) ** 2, rel=0.08)
    assert float((visible[0] * x).sum()) / area == pytest.approx(0.4 * 96, abs=0.5)
    assert float((visible[0] * y).sum()) / area == pytest.approx(0.55 * 96, abs=0.5)
    assert float(share[0]) == pytest.approx(1.0)


def test_restyle_keeps_shapes_inside_the_body(atlas: Atlas) -> None:
    rows = np.arange(12).repeat(20)
    sprites, bodies = atlas.pixels(rows)
    styled, names = restyle(sprites, bodies, atlas.colour[rows], np.random.default_rng(0))
    assert styled.shape == sprites.shape and len(names) == len(rows)
    assert float(styled.min()) >= 0 and float(styled.max()) <= 1
    monotone = torch.from_numpy(~atlas.colour[rows])
    assert (styled[monotone, 3] <= torch.maximum(sprites, bodies)[monotone, 3] + 1e-6).all()
    assert {"red", None} <= set(names)


def test_scattered_drawings_overlap_little_or_are_small() -> None:
    for seed in range(50):
        spots = layout.scattered(np.random.default_rng(seed), 1.0)
        assert 1 <= len(spots) <= 5
        assert all(0 <= x <= 1 and 0 <= y <= 1 for _, x, y in spots)


def test_phrases_match_the_geometry() -> None:
    left, right = Thing("a", "a", 0.2, 0.5, 0.2), Thing("b", "b", 0.8, 0.55, 0.2)
    assert place(left) == "on the left" and place(Thing("c", "c", 0.9, 0.1, 0.2)) == "in the top right"
    assert place(Thing("c", "c", 0.5, 0.5, 0.2)) is None
    assert relation(left, right) == "to the left of" and relation(right, left) == "to the right of"
    assert relation(left, Thing("d", "d", 0.25, 0.9, 0.2)) == "above"
    assert relation(left, Thing("d", "d", 0.25, 0.55, 0.2)) is None


def test_captions_mention_drawings_of_their_scene() -> None:
    things = [Thing(k, k, x, 0.5, 0.3) for k, x in (("square", 0.2), ("disc", 0.5), ("bar", 0.8))]
    for seed in range(100):
        caption = write(things, np.random.default_rng(seed), 1.0)
        assert caption.keys <= {"square", "disc", "bar"} and all(key in caption.text for key in caption.keys)


def test_hard_negatives_differ_and_are_false_of_their_image() -> None:
    names = {"square": "square", "disc": "disc"}
    caption = Caption("a square to the left of a disc.", frozenset(names), True)
    texts = {contradict(caption, 0, names, "ring", np.random.default_rng(s)).text for s in range(30)}
    assert texts == {
        "a square to the right of a disc.",
        "a ring to the left of a disc.",
        "a square to the left of a ring.",
    }


def test_hard_negatives_replace_whole_words_only() -> None:
    caption = Caption("there is a re.", frozenset({"re"}), False)
    assert contradict(caption, 0, {"re": "re"}, "ring", np.random.default_rng(0)).text == "there is a ring."


def test_truth_marks_true_unknown_and_false_captions() -> None:
    contents = [frozenset({"a", "b"}), frozenset({"a"}), frozenset({"c"})]
    unnamed = [frozenset(), frozenset({"b"}), frozenset()]
    captions = [
        Caption("a and b", frozenset({"a", "b"}), False),
        Caption("a", frozenset({"a"}), False),
        Caption("c on the left", frozenset({"c"}), True),
        Caption("b on the left", frozenset({"b"}), True, false_of=0),
    ]
    assert truth(contents, unnamed, captions, 3).tolist() == [[1, 1, 0, 0], [-1, 1, 0, -1], [0, 0, 1, 0]]


def test_multi_positive_loss_equals_the_literal_sum() -> None:
    torch.manual_seed(0)
    images = F.normalize(torch.randn(3, 5, dtype=torch.float64), dim=1)
    texts = F.normalize(torch.randn(5, 5, dtype=torch.float64), dim=1)
    relation = torch.tensor([[1, 0, 1, 0, -1], [0, 1, 0, 0, 0], [0, 0, -1, 0, 0]], dtype=torch.int8)
    total = 0.0
    for i in range(2):  # the last row has no positive
        kept = [t for t in range(5) if relation[i, t] >= 0]
        partition = sum(np.exp(7 * float(images[i] @ texts[t])) for t in kept)
        positives = [t for t in kept if relation[i, t] == 1]
        total += np.mean([np.log(partition) - 7 * float(images[i] @ texts[t]) for t in positives])
    scale = torch.tensor(7.0, dtype=torch.float64)
    assert float(multi_positive_loss(images, texts, relation, scale)) == pytest.approx(total / 2)


def test_image_tower_equals_the_backbone(architecture: Path) -> None:
    backbone = build(architecture)
    images = torch.randn(2, 3, 96, 96)
    feature, patches, _ = image_tower(backbone.model.visual, images, None)
    dense = backbone.dense(images, guide="dv")
    assert torch.allclose(feature, dense.image, atol=1e-5) and torch.allclose(patches, dense.guide, atol=1e-5)
    keep = torch.arange(144).flip(0).expand(2, -1)
    feature_again, patches_again, _ = image_tower(backbone.model.visual, images, keep)
    assert torch.allclose(feature_again, feature, atol=1e-5)
    assert torch.allclose(patches_again, patches.flip(1), atol=1e-5)


def test_vocabulary_gives_the_same_features_and_expands_to_the_full_embedding(
    atlas: Atlas, architecture: Path
) -> None:
    full, small = build(architecture), build(architecture)
    vocabulary = Vocabulary(atlas, small.tokenizer)
    vocabulary.shrink(small)
    texts = ["a photo of a square.", "there is a small ring in the top left."]
    assert torch.allclose(full.encode_text(texts), small.encode_text(texts), atol=1e-6)
    assert torch.allclose(full.encode_text(texts), encode_by_length(small, vocabulary(texts)), atol=1e-6)
    weight = vocabulary.expand(small.model.token_embedding.weight, 49408)
    used = weight.abs().sum(1) > 0
    assert int(used.sum()) == len(vocabulary.ids)
    assert torch.equal(weight[used], full.model.token_embedding.weight[used])
    with pytest.raises(ValueError, match="zebra"):
        vocabulary(["a zebra"])


def test_schedules_warm_up_stay_constant_and_decay() -> None:
    config = PretrainConfig(steps=100, warmup_steps=10, cooldown_steps=20, curriculum_steps=50)
    factors = [lr_factor(step, config) for step in range(100)]
    assert factors[0] == pytest.approx(0.1) and factors[10:80] == [1.0] * 70
    assert all(later < earlier for earlier, later in pairwise(factors[80:])) and factors[99] > 0
    assert hardness(0, config) == 0 and hardness(50, config) == hardness(90, config) == 1
    assert concept_weight(0, config) == config.concept_weight and concept_weight(60, config) == 0


def test_every_loss_term_has_a_gradient_and_falls(atlas: Atlas, architecture: Path) -> None:
    config = PretrainConfig(batch_size=16, hard_negatives=4, warmup_steps=1, bf16=False)
    learner = make_learner(atlas, architecture, config)
    batch = Batches(atlas, config, learner.vocabulary)[0]
    first = learner.step(0, batch)
    assert set(first) == {"loss_clip", "loss_region", "loss_map", "loss_concept"}
    for step in range(1, 30):
        last = learner.step(step, batch)
    assert all(last[name] < first[name] for name in first)


def test_bfloat16_step_is_close_to_float32(atlas: Atlas, architecture: Path) -> None:
    terms = []
    for bf16 in (False, True):
        torch.manual_seed(0)
        config = PretrainConfig(batch_size=16, hard_negatives=4, bf16=bf16)
        learner = make_learner(atlas, architecture, config)
        terms.append(learner.step(0, Batches(atlas, config, learner.vocabulary)[0]))
    assert all(terms[1][name] == pytest.approx(value, rel=0.02) for name, value in terms[0].items())
    assert all(p.dtype == torch.float32 for p in learner.backbone.model.parameters())


def test_teacher_learns_the_concepts_of_regions(atlas: Atlas) -> None:
    torch.manual_seed(0)
    config = PretrainConfig(batch_size=8, hard_negatives=0)
    batch = Batches(atlas, config, lambda texts: torch.ones(len(texts), 1, dtype=torch.long))[0]
    teacher = Teacher(len(atlas.concepts))
    assert teacher(batch.images).shape == (8, 144, WIDTHS[-1])
    optimiser = torch.optim.AdamW(teacher.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        loss = teacher_loss(teacher, batch, bf16=False)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]


def test_trained_teacher_resumes_and_teaches_without_changing(
    folder: Path, atlas: Atlas, architecture: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "art": folder,
        "batch_size": 16,
        "hard_negatives": 0,
        "workers": 0,
        "bf16": False,
    }
    train_teacher(PretrainConfig(out=tmp_path, steps=2, save_every=0.0, **options))
    before = load_file(tmp_path / "teacher.safetensors")
    train_teacher(PretrainConfig(out=tmp_path, steps=2, **options))  # finished: nothing left to do

    config = PretrainConfig(
        teacher=tmp_path / "teacher.safetensors", warmup_steps=1, curriculum_steps=10, **options
    )
    learner = make_learner(atlas, architecture, config)
    batch = Batches(atlas, config, learner.vocabulary)[0]
    first = learner.step(0, batch)
    for step in range(1, 30):
        last = learner.step(step, batch)
    for name in ("loss_feature", "loss_patch", "loss_image"):
        assert last[name] < first[name], name
    assert learner.teacher is not None
    for name, value in learner.teacher.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_check_reports_shares_and_chance_levels(atlas: Atlas, architecture: Path) -> None:
    learner = make_learner(atlas, architecture, PretrainConfig(bf16=False))
    measured = check(learner.backbone, atlas)
    assert 0.2 < measured["mosaic_mass"] < 0.3 and abs(measured["mosaic_difference"]) < 0.05
    assert measured["kept_out_drawings"] == 6
    assert all(
        0 <= value <= 1
        for name, value in measured.items()
        if name != "kept_out_drawings" and "difference" not in name
    )


def run(folder: Path, architecture: Path, out: Path, steps: int, *more: object) -> None:
    command = [
        sys.executable,
        "-m",
        "pretrain",
        "--art",
        folder,
        "--out",
        out,
        "--architecture",
        architecture,
    ]
    options = ["--batch-size", 8, "--hard-negatives", 4, "--workers", 0, "--threads", 1, "--no-bf16"]
    schedule = ["--steps", steps, "--cooldown-steps", 2, "--curriculum-steps", 4, "--warmup-steps", 1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    subprocess.run(
        [str(part) for part in (*command, *options, *schedule, *more)], cwd=ROOT, env=environment, check=True
    )


def test_extended_run_resumes_and_writes_loadable_weights(
    folder: Path, architecture: Path, tmp_path: Path
) -> None:
    run(folder, architecture, tmp_path / "run", steps=3)
    assert load_state(tmp_path / "run" / "state.safetensors")["step"] == 3
    run(folder, architecture, tmp_path / "run", steps=5)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [3, 5] and "kept_out_top1" in log[-1]
    weights = load_file(tmp_path / "run" / "pocket.safetensors")
    model = build(architecture).model
    assert set(weights) == set(model.state_dict())
    model.load_state_dict({name: value.float() for name, value in weights.items()})
    run(
        folder,
        architecture,
        tmp_path / "again",
        1,
        "--start-from",
        tmp_path / "run" / "pocket.safetensors",
        "--lr",
        0,
    )
    again = load_file(tmp_path / "again" / "pocket.safetensors")
    assert torch.allclose(again["visual.proj"].float(), weights["visual.proj"].float(), atol=1e-3)


def test_card_states_gates_teacher_and_length_of_the_run(folder: Path, tmp_path: Path) -> None:
    source = Pictograms()
    art = tmp_path / "art"
    shutil.copytree(folder, art)
    nearest = {"one": {"drawings": 6, **dict.fromkeys(source.domain_names, 0.1)}}
    (art / "nearest.json").write_text(json.dumps(nearest))
    table = json.loads((art / "table.json").read_text())
    table["sets"] = {name: {"author": "an artist", "licence": "MIT"} for name in ("one", "two")}
    (art / "table.json").write_text(json.dumps(table))
    run = tmp_path / "run"
    run.mkdir()
    rows = [
        {"step": 200, "kept_out_top1": 0.05, "seconds": 700},
        {"step": 400, "loss_patch": 5.0, "seconds": 1400},
        {"step": 400, "loss_patch": 4.0, "seconds": 7200},  # repeated after an interruption
    ]
    (run / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    teacher = tmp_path / "teacher"
    teacher.mkdir()
    (teacher / "log.jsonl").write_text(json.dumps({"step": 1200, "kept_out_top1": 0.49}) + "\n")
    measured = {
        "kept_out_top1": 0.45,
        "kept_out_top5": 0.7,
        "kept_out_drawings": 6,
        "mosaic_mass": 0.6,
        "mosaic_object_mass": 0.4,
        "mosaic_difference": 0.1,
        "scene_short_recall10": 0.5,
        "scene_long_recall10": 0.5,
        "scene_chance10": 0.04,
    }
    accuracy = {d: {"top1": 0.35, "top5": 0.6, "base": 0.3, "new": 0.4, "n": 10} for d in source.domain_names}
    missed = {gate.name for gate in gates(measured, accuracy, source) if not gate.met}
    assert missed == {f"{d}: top-1 accuracy" for d in source.domain_names[:4]} | {
        "mosaic: that mass minus the mass for another text"
    }
    card = write_card(CardConfig(run=run, teacher=teacher, art=art), measured, accuracy, source)
    assert "Steps: 400 of 256 images" in card and "2.0 hours" in card
    assert (
        "From step 400 on, a teacher" in card and "49.0 % top-1" in card and "5.0 % after 200 steps" in card
    )
    assert "| kept-out top-1 accuracy | 0.45 | 0.40 | yes |" in card
    assert "teacher" not in write_card(CardConfig(run=run, art=art), measured, accuracy, source)
