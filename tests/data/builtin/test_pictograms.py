"""Pictograms: integrity of the sprites, disjoint splits, and determinism of images and masks."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest
import torch

from clipalign.core.errors import UserError
from clipalign.core.types import Preprocess, Source
from clipalign.data.builtin.compose import MIN_CONTRAST, render
from clipalign.data.builtin.pictograms import (
    CUES,
    FAMILY_SHARES,
    INSTANCES,
    OTHERS,
    OVERLAP,
    SCENE_SCALES,
    SIZE,
    Pictograms,
)

PLAIN = Preprocess((64, 64), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.fixture(scope="module")
def pictograms() -> Pictograms:
    return Pictograms()


def test_pictograms_is_a_source_with_distinct_class_names(pictograms: Pictograms) -> None:
    assert isinstance(pictograms, Source)
    assert len(pictograms) == len(pictograms.class_names) * 5
    assert 200 <= len(pictograms.class_names) <= 300
    assert len(set(pictograms.class_names)) == len(pictograms.class_names)


def test_sprites_have_the_hashes_of_the_index(pictograms: Pictograms) -> None:
    listed = {(s["domain"], s["concept"]): s["sha256"] for s in pictograms.index["sprites"]}
    assert len(listed) == len(pictograms)
    for row, sprite in enumerate(pictograms.sprites):
        concept = pictograms.index["concepts"][pictograms.labels[row]]["id"]
        domain = pictograms.domain_names[pictograms.domains[row]]
        pixels = sprite.permute(1, 2, 0).contiguous().numpy()
        assert hashlib.sha256(pixels.tobytes()).hexdigest() == listed[domain, concept], (domain, concept)


def test_monochrome_sprites_are_black(pictograms: Pictograms) -> None:
    high_contrast = pictograms.sprites[pictograms.domains == 4]
    assert int((high_contrast[:, :3] * (high_contrast[:, 3:] > 0)).max()) == 0
    assert int(pictograms.sprites[pictograms.domains == 0][:, :3].max()) == 255


def test_splits_are_partitions_balanced_over_domains(pictograms: Pictograms) -> None:
    splits = pictograms.splits
    assert splits.base.isdisjoint(splits.new) and abs(len(splits.base) - len(splits.new)) <= 1
    crossed = [splits.base_to_new_train, splits.base_to_new_validation, splits.base_to_new_test]
    assert Counter(np.concatenate(crossed).tolist()).most_common(1)[0][1] == 1
    assert [len(part) for part in crossed] == [3 * 256, 256, 256]
    for domain in range(5):
        train, validation = splits.domain_train[domain], splits.domain_validation[domain]
        assert np.intersect1d(train, validation).size == 0
        assert set(pictograms.domains[np.concatenate([train, validation])]) == {domain}
        assert len(validation) == round(0.2 * 256)
    tested = Counter(pictograms.domains[splits.base_to_new_test].tolist())
    assert max(tested.values()) - min(tested.values()) <= 2, "test drawings must be balanced over domains"


def test_new_classes_have_base_classes_in_their_subgroup(pictograms: Pictograms) -> None:
    base = {pictograms.index["concepts"][c]["subgroup"] for c in pictograms.splits.base}
    sizes = Counter(concept["subgroup"] for concept in pictograms.index["concepts"])
    for c in pictograms.splits.new:
        subgroup = pictograms.index["concepts"][c]["subgroup"]
        assert subgroup in base or sizes[subgroup] == 1


def test_stages_share_no_background_instance() -> None:
    ranges = [set(r) for r in INSTANCES.values()] + [set(CUES)]
    assert sum(len(r) for r in ranges) == len(set().union(*ranges))
    assert sum(FAMILY_SHARES.values()) == pytest.approx(1)


def test_images_depend_on_seed_and_draw_not_on_the_batch(pictograms: Pictograms) -> None:
    rows, draws = np.array([3, 700, 1100, 50]), np.array([0, 1, 2, 3])
    together = pictograms.images(rows, "train", draws, 5, PLAIN)
    for i in range(4):
        alone = pictograms.images(rows[i : i + 1], "train", draws[i : i + 1], 5, PLAIN)
        assert torch.equal(alone[0], together[i])
    assert not torch.equal(pictograms.images(rows, "train", draws, 6, PLAIN), together)
    assert not torch.equal(pictograms.images(rows, "train", draws + 9, 5, PLAIN), together)


def test_evaluation_views_ignore_the_seed(pictograms: Pictograms) -> None:
    rows, draws = np.array([3, 700]), np.array([0, 3])
    for stage in ("validation", "test"):
        first = pictograms.images(rows, stage, draws, 0, PLAIN)
        assert torch.equal(first, pictograms.images(rows, stage, draws, 17, PLAIN))
    assert not torch.equal(
        pictograms.images(rows, "validation", draws, 0, PLAIN),
        pictograms.images(rows, "test", draws, 0, PLAIN),
    )


def test_masks_cover_the_object(pictograms: Pictograms) -> None:
    for row in (0, 300, 900, 1030, 1279):
        sample = pictograms.sample(row, draw=1)
        assert sample.image.shape == (3, 64, 64) and sample.alpha.shape == (64, 64)
        assert float(sample.alpha.min()) >= 0 and float(sample.silhouette.max()) <= 1
        assert bool((sample.silhouette >= sample.alpha).all())
        assert 0.02 < float(sample.silhouette.mean()) < 0.95
        assert torch.equal(
            sample.image, pictograms.images(np.array([row]), "test", np.array([1]), 0, PLAIN)[0]
        )


def test_silhouettes_fill_the_holes_of_outlines(pictograms: Pictograms) -> None:
    outline = [pictograms.sample(row) for row in np.flatnonzero(pictograms.domains == 4)[:40]]
    assert np.mean([float(s.silhouette.sum() / s.alpha.sum()) for s in outline]) > 1.2


def test_objects_contrast_with_the_background(pictograms: Pictograms) -> None:
    rows = np.random.default_rng(0).integers(0, len(pictograms), 64)
    scenes = pictograms._scenes(rows, "test", np.arange(64) % 4, 0)
    rendered = pictograms._render(scenes, "test")
    ink = torch.stack([pictograms.sample(int(r), draw=i % 4).alpha for i, r in enumerate(rows)]).unsqueeze(1)
    assert torch.equal(ink[:, 0], rendered.alpha)
    # Pixels fully covered by ink show the drawing, uncovered ones the background; their means differ.
    solid, outside = (ink > 0.99).float(), (ink < 0.01).float()
    inside_mean = (rendered.images * solid).sum((2, 3)) / solid.sum((2, 3)).clamp_min(1)
    outside_mean = (rendered.images * outside).sum((2, 3)) / outside.sum((2, 3)).clamp_min(1)
    assert float((inside_mean - outside_mean).abs().mean()) > MIN_CONTRAST / 2


def test_background_bias_assigns_one_cue_per_subgroup() -> None:
    biased = Pictograms(background_bias=1.0, backgrounds="aligned")
    scenes = biased._scenes(np.arange(256), "train", np.zeros(256, int), 0)
    by_subgroup: dict[int, set] = {}
    for scene, label in zip(scenes, biased.labels[:256], strict=True):
        by_subgroup.setdefault(int(biased._subgroup[label]), set()).add(scene.background)
    assert all(len(found) == 1 for found in by_subgroup.values())
    assert len(set().union(*by_subgroup.values())) == len(by_subgroup)
    aligned = biased._scenes(np.arange(256), "test", np.zeros(256, int), 0)
    assert [s.background for s in aligned] == [s.background for s in scenes]
    conflicting = Pictograms(backgrounds="conflicting")._scenes(np.arange(256), "test", np.zeros(256, int), 0)
    assert all(a.background != c.background for a, c in zip(aligned, conflicting, strict=True))
    # The cue changes the background only, not the placement of the drawing.
    assert [(s.scale, s.x, s.y, s.angle) for s in aligned] == [
        (s.scale, s.x, s.y, s.angle) for s in conflicting
    ]


def test_background_bias_is_the_share_of_cues() -> None:
    half = Pictograms(background_bias=0.5)
    scenes = half._scenes(np.zeros(400, int), "train", np.arange(400), 0)
    cues = sum(s.background.instance in CUES for s in scenes)
    assert 150 < cues < 250


def test_images_are_resized_to_the_backbone(pictograms: Pictograms) -> None:
    big = pictograms.images(
        np.array([7]), "test", np.array([0]), 0, Preprocess((224, 224), (0.5,) * 3, (0.5,) * 3)
    )
    assert big.shape == (1, 3, 224, 224)
    assert float(big.min()) >= -1 and float(big.max()) <= 1


@pytest.mark.parametrize(
    "options", [{"background_bias": 1.5}, {"backgrounds": "sideways"}, {"rendering": "room"}]
)
def test_invalid_options_raise_an_error(options: dict) -> None:
    with pytest.raises(UserError, match=f"--data-options: {next(iter(options))}="):
        Pictograms(**options)


def test_scenes_show_the_named_drawing_small_among_others_and_unoccluded() -> None:
    scenes = Pictograms(rendering="scenes")
    rows = np.arange(0, 1280, 20)
    for row in rows:
        scene = scenes._scene(int(row), "test", 0, 0)
        low, high = SCENE_SCALES
        assert low <= scene.scale <= high and abs(scene.x) + scene.scale / 2 <= 0.5 + 1e-9
        assert len(scene.others) <= OTHERS[1]
        for other in scene.others:  # no other drawing is likely to be mistaken for the named one
            a, b = scene.scale, other.scale
            width = min(scene.x + a / 2, other.x + b / 2) - max(scene.x - a / 2, other.x - b / 2)
            height = min(scene.y + a / 2, other.y + b / 2) - max(scene.y - a / 2, other.y - b / 2)
            assert max(0, width) * max(0, height) <= OVERLAP * a * a + 1e-9
    counts = [len(scenes._scene(int(row), "test", 0, 0).others) for row in rows]
    assert np.mean(counts) > OTHERS[0]
    share = np.mean([float(scenes.sample(int(row)).silhouette.mean()) for row in rows])
    assert 0.03 < share < 0.15
    assert scenes.fingerprint() != Pictograms().fingerprint()


def test_scenes_masks_mark_the_named_drawing_only() -> None:
    """Outside the mask, an image does not depend on the pixels of the named drawing."""
    scenes = Pictograms(rendering="scenes")
    picture = [scenes._scene(row, "test", 1, 0) for row in range(0, 1280, 160)]
    drawn = scenes._render(picture, "test")
    inverted = scenes.sprites.clone()
    inverted[:, :3] = 255 - inverted[:, :3]
    other = render(picture, inverted, SIZE, scenes.clutter["test"])
    compared = 0
    for i, scene in enumerate(picture):
        if scene.ink is not None:
            continue
        outside = drawn.alpha[i] == 0  # [S, S]
        # A drawing with other colours may get another background for contrast.
        if torch.equal(drawn.images[i][:, outside], other.images[i][:, outside]):
            compared += 1
            assert not torch.equal(drawn.images[i], other.images[i])
    assert compared >= 3


def test_scenes_of_training_and_test_use_disjoint_drawings() -> None:
    scenes = Pictograms(rendering="scenes")
    train, test = scenes.clutter["train"].drawings, scenes.clutter["test"].drawings
    assert not any(torch.equal(a, b) for a in train for b in test)
