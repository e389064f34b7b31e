"""Pictoscenes: determinism of scenes, disjoint parts, and agreement of sentences, masks and pixels."""

from __future__ import annotations

import pickle
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clipalign.core.errors import UserError
from clipalign.core.types import CaptionSource, Preprocess
from clipalign.data.builtin.compose import MIN_CONTRAST
from clipalign.data.builtin.pictoscenes import COUNTS, Pictoscenes
from clipalign.data.builtin.scene_grammar import COLOURS
from clipalign.data.builtin.scene_layout import OBJECTS, PARTS, STYLE
from clipalign.data.builtin.scene_pixels import draw
from clipalign.data.builtin.scene_truth import holds
from clipalign.data.captions.sentences import split_sentences
from clipalign.data.registry import list_data, load_source

PLAIN = Preprocess((96, 96), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.fixture(scope="module")
def source() -> Pictoscenes:
    return Pictoscenes(train_rows=1500)


def rows_of(source: Pictoscenes, part: str) -> np.ndarray:
    if part == "style":
        return source.style_rows
    rows = source.parts[part]
    return np.setdiff1d(rows, source.style_rows)


def test_pictoscenes_is_a_caption_source_with_disjoint_parts(source: Pictoscenes) -> None:
    assert isinstance(source, CaptionSource)
    assert len(source) == len(source.texts) == len(source.labels) == len(source.domains) == 4000
    assert {part: len(rows) for part, rows in source.parts.items()} == {
        "train": 1500,
        "validation": 500,
        "test": 2000,
    }
    every = np.sort(np.concatenate(list(source.parts.values())))
    assert np.array_equal(every, np.arange(len(source)))
    assert source.texts[-1] == source.texts[3999] and source.texts[1:3] == (source.texts[1], source.texts[2])
    with pytest.raises(IndexError):
        source.texts[4000]


def test_load_source_opens_pictoscenes_by_name() -> None:
    assert "pictoscenes" in list_data()
    found = load_source("pictoscenes", ["train-rows=10"])
    assert isinstance(found, Pictoscenes) and len(found) == 2510
    for options in (["train_rows=0"], ["train_rows=many"], ["objects=3"]):
        with pytest.raises(UserError, match=options[0].split("=")[0]):
            load_source("pictoscenes", options)


def test_scenes_and_captions_depend_on_the_row_only(source: Pictoscenes) -> None:
    other = Pictoscenes(train_rows=COUNTS["train"])
    rows = np.array([3999, 0, 2503, 700, 1999])  # in another order
    for row in rows.tolist():
        assert other.caption(row) == source.caption(row) and other.scene(row) == source.scene(row)
    assert source.fingerprint() == Pictoscenes(train_rows=1500).fingerprint() != other.fingerprint()


def test_images_do_not_depend_on_batch_stage_draw_or_seed(source: Pictoscenes) -> None:
    rows = np.concatenate([rows_of(source, part)[:6] for part in PARTS])
    together = source.images(rows, "train", np.arange(24), 5, PLAIN)
    assert together.shape == (24, 3, 96, 96)
    assert float(together.min()) >= 0 and float(together.max()) <= 1
    for i, row in enumerate(rows.tolist()):
        alone = source.images(np.array([row]), "test", np.array([0]), 0, PLAIN)[0]
        assert torch.equal(alone, together[i]) and torch.equal(alone, source.sample(row).image)


def test_cached_images_equal_rendered_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipalign.data.builtin.pictoscenes.CACHE_BYTES", 3 * 3 * 96 * 96)
    few, rows = Pictoscenes(train_rows=5), np.array([1, 1, 4, 9, 2, 1])
    first = few.images(rows, "train", rows, 0, PLAIN)
    assert len(few._pixels) == 3 and torch.equal(first[0], first[5])
    again = few.images(rows[::-1].copy(), "train", rows, 0, PLAIN)
    assert torch.equal(again.flip(0), first) and len(few._pixels) == 3


def test_parts_share_no_drawing(source: Pictoscenes) -> None:
    offered = {
        part: {int(row) for (of, _), rows in source.layout.drawings.items() if of == part for row in rows}
        for part in PARTS
    }
    for one, other in combinations(PARTS, 2):
        assert not offered[one] & offered[other]
    unseen = source.domain_names.index(STYLE)
    domains = source.pictograms.domains
    for part in PARTS:
        assert {domains[row] == unseen for row in offered[part]} == {part == "style"}
        for row in rows_of(source, part)[:300].tolist():
            sprites = {item.sprite for item in source.scene(row).objects}
            assert sprites <= offered[part]
            assert {domains[sprite] for sprite in sprites} == {source.domains[row]}


def test_held_out_pairs_occur_in_tests_only(source: Pictoscenes) -> None:
    """Every object of a test scene forms a held-out pair with another one; no training scene has such a pair."""
    held_out = source.layout.held_out
    assert np.array_equal(held_out, held_out.T) and not held_out.diagonal().any()
    for part in PARTS:
        for row in rows_of(source, part).tolist():
            concepts = [thing.concept for thing in source.scene(row).facts.things]
            assert OBJECTS[0] <= len(concepts) == len(set(concepts)) <= OBJECTS[1]
            pairs = held_out[np.ix_(concepts, concepts)]
            assert pairs.any(0).all() if part in ("test", "style") else not pairs.any()


def test_sentences_of_a_scene_are_true_and_name_their_object(source: Pictoscenes) -> None:
    for row in range(0, 4000, 25):
        scene = source.scene(row).facts
        sentences = source.sentences(row)
        assert len(sentences) == len(scene.things) + 1
        assert tuple(s.text for s in sentences) == split_sentences(source.texts[row][0])
        for sentence in sentences:
            claim = source.grammar.parse(sentence.text)
            assert holds(claim, scene)
            if sentence.thing is not None:
                assert claim.concept == scene.things[sentence.thing].concept


def test_masks_agree_with_the_facts(source: Pictoscenes) -> None:
    """Measured in pixels, visible parts lie around the centre of the object, within the size of its square."""
    for part in PARTS:
        for row in rows_of(source, part)[:12].tolist():
            sample = source.sample(row, size=128)
            assert len(sample.masks) == len(sample.names) == len(sample.scene.objects)
            assert float(sample.masks.sum(0).max()) <= 1 + 1e-4 and float(sample.masks.min()) >= 0
            for mask, item, thing in zip(
                sample.masks, sample.scene.objects, sample.scene.facts.things, strict=True
            ):
                ys, xs = (torch.nonzero(mask.amax(axis) > 0.5)[:, 0] for axis in (1, 0))
                reach = 0.6 * item.scale + 1 / 128  # half the square, rotated by at most 12 degrees
                for pixels, centre in ((xs, thing.x), (ys, thing.y)):
                    assert len(pixels) > 4
                    assert float(pixels.min()) / 128 - 0.5 >= centre - reach
                    assert float(pixels.max() + 1) / 128 - 0.5 <= centre + reach
                if thing.colour is not None:
                    solid = mask > 0.99
                    if int(solid.sum()) > 3:
                        actual = sample.image[:, solid].mean(1)
                        named = torch.tensor(list(COLOURS.values())[thing.colour])
                        assert float((actual - named).abs().max()) < 0.06


def test_objects_lie_apart_and_inside_the_canvas(source: Pictoscenes) -> None:
    for row in range(0, 4000, 11):
        for item in source.scene(row).objects:
            assert max(abs(item.x), abs(item.y)) + item.scale / 2 <= 0.5 + 1e-9
        for one, other in combinations(source.scene(row).objects, 2):
            gap = max(abs(one.x - other.x), abs(one.y - other.y))
            assert gap >= 0.9 * (one.scale + other.scale) / 2


def test_background_has_the_named_colours(source: Pictoscenes) -> None:
    for row in range(0, 4000, 40):
        sample = source.sample(row)
        facts = sample.scene.facts
        empty = sample.masks.sum(0) < 1e-6
        if facts.family in ("flat", "stripes") and int(empty.sum()) > 200:
            pixels = sample.image[:, empty].T
            named = torch.tensor([list(COLOURS.values())[c] for c in facts.colours])
            nearest = (pixels[:, None] - named).abs().amax(2)
            assert float(nearest.amin(1).max()) < 0.05
    assert len({source.scene(row).facts.family for row in range(200)}) == 5


def test_images_of_different_sizes_agree(source: Pictoscenes) -> None:
    """A large image, averaged down, approximates the small one."""
    rows = np.arange(8)
    small = source.images(rows, "test", rows, 0, PLAIN)
    large = source.images(rows, "test", rows, 0, Preprocess((192, 192), PLAIN.mean, PLAIN.std))
    assert float((torch.nn.functional.avg_pool2d(large, 2) - small).abs().mean()) < 0.02
    assert source.images(rows[:1], "test", rows[:1], 0, Preprocess((64, 96), *((0.5,) * 3,) * 2)).shape == (
        1,
        3,
        64,
        96,
    )


def test_most_objects_contrast_with_the_background(source: Pictoscenes) -> None:
    rows = rows_of(source, "train")[:150].tolist()
    scenes = [source.scene(row) for row in rows]
    images, masks = draw(scenes, source.pictograms.sprites, [source.pictograms.clutter["train"]] * 150, 64)
    gaps = []
    for image, mask in zip(images, masks, strict=True):
        around = torch.nn.functional.max_pool2d(mask[None], 5, 1, 2)[0]
        outside = around * (mask.sum(0) < 0.01)
        for inner, outer in zip(mask, outside, strict=True):
            mean = (image * outer).sum((1, 2)) / outer.sum().clamp_min(1e-6)
            gaps.append(float(((image - mean[:, None, None]).abs().mean(0) * inner).sum() / inner.sum()))
    assert np.mean(np.array(gaps) >= MIN_CONTRAST * 0.8) > 0.85


@pytest.mark.parametrize("part", ["validation", "test"])
def test_caption_tests_have_relevance_of_own_images(source: Pictoscenes, part: str) -> None:
    tests = source.caption_tests(part)  # type: ignore[arg-type]
    names = (
        ("long", "short") if part == "validation" else ("long", "short", f"long-{STYLE}", f"short-{STYLE}")
    )
    assert tuple(test.name for test in tests) == names
    for test in tests:
        assert len(test.rows) == len(test.texts) == COUNTS[part if STYLE not in test.name else "style"]  # type: ignore[index]
        own = test.relevant[np.arange(len(test.texts)), test.owner]
        assert bool(np.all(own)), "a caption is true of its own image"
        unseen = set(source.domains[test.rows]) == {source.domain_names.index(STYLE)}
        assert unseen == is_style_test(test.name)
        if test.name.startswith("short"):
            assert all(len(split_sentences(text)) == 1 for text in test.texts)
            assert test.relevant.nnz > 2 * len(test.texts), "short captions are true of other scenes too"


def is_style_test(name: str) -> bool:
    return name.endswith(STYLE)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32))
def test_false_negatives_equal_a_direct_count(seed: int) -> None:
    source = SMALL
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(source), 24)
    texts = [source.sentences(row)[int(rng.integers(3))].text for row in rows.tolist()]
    count = sum(
        holds(source.grammar.parse(texts[i]), source.scene(int(rows[j])).facts)
        for i in range(24)
        for j in range(24)
        if i != j
    )
    assert source.false_negatives(texts, rows) == count
    with pytest.raises(ValueError, match="texts"):
        source.false_negatives(texts[1:], rows)


SMALL = Pictoscenes(train_rows=100)


def test_pictoscenes_can_be_pickled(source: Pictoscenes) -> None:
    rows = np.array([3, 4])
    copy = pickle.loads(pickle.dumps(Pictoscenes(train_rows=5)))
    assert torch.equal(
        copy.images(rows, "train", rows, 0, PLAIN), source.images(rows, "train", rows, 0, PLAIN)
    )
    assert copy.texts[3] == source.texts[3]
