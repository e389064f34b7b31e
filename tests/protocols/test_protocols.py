from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipalign.core.errors import UserError
from clipalign.core.types import Episode, FixedSplits
from clipalign.data.splits import hold_out, seed_hash
from clipalign.protocols import build_episode, list_protocols
from tests.helpers.sources import TableSource

PROTOCOLS = ("domain-shift", "base-to-new", "in-the-wild", "few-shot")


def fixed(source: TableSource, seed: int = 0) -> FixedSplits:
    """Return random splits as a data set may ship them."""
    random = np.random.default_rng(seed)
    order = random.permutation(len(source.class_names))
    half = (len(order) + 1) // 2
    train, validation = {}, {}
    for domain in range(len(source.domain_names)):
        rows = random.permutation(np.flatnonzero(source.domains == domain))
        cut = max(1, len(rows) // 5)
        train[domain], validation[domain] = np.sort(rows[cut:]), np.sort(rows[:cut])
    rows = random.permutation(len(source.labels))
    third = len(rows) // 3
    return FixedSplits(
        base=frozenset(order[:half].tolist()),
        new=frozenset(order[half:].tolist()),
        domain_train=train,
        domain_validation=validation,
        base_to_new_train=np.sort(rows[:third]),
        base_to_new_validation=np.sort(rows[third : 2 * third]),
        base_to_new_test=np.sort(rows[2 * third :]),
        rule="shipped",
        seed=seed,
    )


@st.composite
def sources(draw: st.DrawFn) -> TableSource:
    """Tables in which any class may be rare or absent in any domain."""
    classes, domains = draw(st.integers(2, 5)), draw(st.integers(2, 4))
    pairs = st.tuples(st.integers(0, classes - 1), st.integers(0, domains - 1))
    table = sorted(draw(st.lists(pairs, min_size=20, max_size=120)), key=lambda pair: pair[::-1])
    source = TableSource([c for c, _ in table], [d for _, d in table], classes, domains)
    if draw(st.booleans()):
        source.splits = fixed(source, draw(st.integers(0, 9)))
    return source


def check_invariants(episode: Episode) -> None:
    source = episode.source
    tested = np.unique(np.concatenate([test.rows for test in episode.tests]))
    parts = [episode.train_rows, episode.validation_rows, tested]
    # Training, validation and test are disjoint, without duplicates.
    together = np.concatenate(parts)
    assert len(np.unique(together)) == len(together)
    assert together.min() >= 0 and together.max() < len(source.labels)
    # Training and validation have training classes only.
    for rows in parts[:2]:
        assert rows.dtype == np.int64 and len(rows) > 0
        assert set(source.labels[rows]) <= set(episode.train_classes)
    for test in episode.tests:
        assert len(test.rows) > 0 and test.stage == "test"
        assert set(source.labels[test.rows]) <= set(test.classes)
        assert len(set(test.classes)) == len(test.classes)
    assert episode.class_names == tuple(source.class_names[c] for c in episode.train_classes)
    assert set(episode.train_domains) == set(source.domains[episode.train_rows])
    assert len(episode.split_hash) == 64


def by_name(episode: Episode) -> dict:
    return {test.name: test for test in episode.tests}


@settings(max_examples=150, deadline=None)
@given(sources(), st.sampled_from(PROTOCOLS), st.integers(0, 3), st.data())
def test_episode_invariants_hold_for_any_table(
    source: TableSource, protocol: str, seed: int, data: st.DataObject
) -> None:
    targets = list(source.domain_names) + ([None] if protocol in ("base-to-new", "few-shot") else [])
    target = data.draw(st.sampled_from(targets))
    try:
        episode = build_episode(protocol, source, target, seed)
    except UserError as error:
        # The only valid reason: the table is too small to fill every part.
        assert "leaves no images" in str(error)
        return
    check_invariants(episode)
    tests = by_name(episode)
    all_classes = tuple(range(len(source.class_names)))
    index = source.domain_names.index(target) if target else None
    if protocol == "few-shot":
        assert list(tests) == ["all"] and episode.train_classes == all_classes
        assert np.bincount(source.labels[episode.train_rows]).max() <= 16
        assert np.bincount(source.labels[episode.validation_rows]).max() <= 4
        return
    if protocol == "base-to-new":
        assert list(tests) == ["base", "new"]
        assert tests["base"].classes == episode.train_classes
        assert sorted(tests["base"].classes + tests["new"].classes) == list(all_classes)
        if index is not None:
            assert all(set(source.domains[test.rows]) == {index} for test in episode.tests)
        return
    # A domain left out has no training or validation rows, and all its rows are tested.
    assert index not in episode.train_domains
    assert index not in source.domains[episode.validation_rows]
    np.testing.assert_array_equal(tests["all"].rows, np.flatnonzero(source.domains == index))
    assert all(test.classes == all_classes for test in episode.tests)
    if protocol == "domain-shift":
        assert list(tests) == ["all"] and episode.train_classes == all_classes
    else:
        assert list(tests) == ["all", "base", "new"]
        new = set(all_classes) - set(episode.train_classes)
        assert set(source.labels[tests["base"].rows]) <= set(episode.train_classes)
        assert set(source.labels[tests["new"].rows]) <= new
        np.testing.assert_array_equal(
            np.sort(np.concatenate([tests["base"].rows, tests["new"].rows])), tests["all"].rows
        )


@pytest.mark.parametrize("seed", [0, 1])
def test_domain_shift_holds_out_the_rows_of_domainbed(seed: int) -> None:
    source = TableSource.grid(classes=5, domains=4, images=10)
    episode = build_episode("domain-shift", source, "domain-2", seed)
    expected = [hold_out(50 * d + np.arange(50), seed_hash(seed, d)) for d in (0, 1, 3)]
    assert set(episode.train_rows) == set(np.concatenate([kept for kept, _ in expected]))
    assert set(episode.validation_rows) == set(np.concatenate([held for _, held in expected]))
    assert len(episode.validation_rows) == 30


def test_in_the_wild_splits_base_rows_per_domain() -> None:
    source = TableSource.grid(classes=5, domains=3, images=10)
    episode = build_episode("in-the-wild", source, "domain-0", 0)
    assert episode.train_classes == (0, 1)
    expected = [hold_out(50 * d + np.arange(20), seed_hash(0, d, "base")) for d in (1, 2)]
    assert set(episode.train_rows) == set(np.concatenate([kept for kept, _ in expected]))
    assert set(episode.validation_rows) == set(np.concatenate([held for _, held in expected]))


@pytest.mark.parametrize(("classes", "wild", "coop"), [(65, 32, 33), (345, 172, 173), (37, 18, 19)])
def test_base_classes_are_the_first_half_rounded_as_published(classes: int, wild: int, coop: int) -> None:
    source = TableSource.grid(classes=classes, domains=2, images=4)
    assert build_episode("in-the-wild", source, "domain-0").train_classes == tuple(range(wild))
    assert build_episode("base-to-new", source, None).train_classes == tuple(range(coop))


def test_shipped_splits_are_used_row_by_row() -> None:
    source = TableSource.grid(classes=6, domains=3, images=5)
    source.splits = splits = fixed(source)
    shift = build_episode("domain-shift", source, "domain-1", seed=0)
    assert set(shift.train_rows) == set(splits.domain_train[0]) | set(splits.domain_train[2])
    wild = build_episode("in-the-wild", source, "domain-1", seed=0)
    assert set(wild.train_classes) == splits.base
    assert set(wild.train_rows) == {r for r in shift.train_rows if source.labels[r] in splits.base}
    assert set(wild.validation_rows) == {r for r in shift.validation_rows if source.labels[r] in splits.base}
    base_to_new = build_episode("base-to-new", source, None, seed=0)
    assert set(base_to_new.train_rows) == {
        r for r in splits.base_to_new_train if source.labels[r] in splits.base
    }
    assert {r for test in base_to_new.tests for r in test.rows} == set(splits.base_to_new_test)
    # The seed has no effect here, so it must not change the hash.
    assert build_episode("domain-shift", source, "domain-1", seed=9).split_hash == shift.split_hash
    assert shift.rule == "shipped"


def test_split_hash_distinguishes_splits() -> None:
    source = TableSource.grid(classes=4, domains=3, images=10)
    first = build_episode("in-the-wild", source, "domain-0", 0)
    assert first.split_hash == build_episode("in-the-wild", source, "domain-0", 0).split_hash
    others = [
        build_episode("in-the-wild", source, "domain-0", 1),
        build_episode("in-the-wild", source, "domain-1", 0),
        build_episode("domain-shift", source, "domain-0", 0),
        build_episode("in-the-wild", TableSource.grid(classes=4, domains=3, images=11), "domain-0", 0),
    ]
    assert len({episode.split_hash for episode in [first, *others]}) == 5


def test_list_protocols_contains_the_published_ones() -> None:
    assert set(PROTOCOLS) <= set(list_protocols())


def test_episode_is_immutable() -> None:
    episode = build_episode("base-to-new", TableSource.grid(4, 2, 5), None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        episode.target = "domain-0"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("protocol", "target", "shape", "message"),
    [
        ("domain-drift", "domain-0", (4, 3, 5), "--protocol: unknown.*domain-shift"),
        ("domain-shift", "photo", (4, 3, 5), "--target: no domain.*domain-0, domain-1"),
        ("in-the-wild", "photo", (4, 3, 5), "--target: no domain"),
        ("base-to-new", "photo", (4, 3, 5), "--target: no domain"),
        ("domain-shift", None, (4, 3, 5), "needs --target"),
        ("in-the-wild", None, (4, 3, 5), "needs --target"),
        ("domain-shift", "domain-0", (4, 1, 5), "only one"),
        ("in-the-wild", "domain-0", (4, 1, 5), "only one"),
        ("base-to-new", None, (1, 2, 5), "at least two classes"),
        ("in-the-wild", "domain-0", (1, 2, 5), "at least two classes"),
        ("domain-shift", "domain-0", (2, 2, 1), "no images for validation"),
        ("base-to-new", None, (2, 2, 1), "no images for validation"),
    ],
)
def test_build_episode_names_invalid_input(
    protocol: str, target: str | None, shape: tuple[int, int, int], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        build_episode(protocol, TableSource.grid(*shape), target, 0)
