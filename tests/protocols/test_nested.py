"""Inner episodes of nested validation use no test information of the outer episode."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from clipalign.core.config import SplitOptions
from clipalign.core.errors import UserError
from clipalign.core.types import Episode
from clipalign.protocols import build_episode, nested_episodes, read_split, write_split
from clipalign.protocols.nested import unread_episode
from tests.helpers.sources import TableSource

LEAVES_OUT = ("domain-shift", "in-the-wild")


@st.composite
def outer_episodes(draw: st.DrawFn) -> Episode:
    """Episodes of every protocol with classes, from tables in which classes may be rare in some domains."""
    protocol = draw(st.sampled_from([*LEAVES_OUT, "base-to-new", "few-shot"]))
    domains = draw(st.integers(2 if protocol in LEAVES_OUT else 1, 4))
    source = TableSource.grid(draw(st.integers(4, 9)), domains, draw(st.integers(8, 12)))
    kept = np.random.default_rng(draw(st.integers(0, 9))).random(len(source)) < 0.9
    source.labels, source.domains = source.labels[kept], source.domains[kept]
    target = draw(st.sampled_from(source.domain_names)) if protocol in LEAVES_OUT else None
    options = {"shots": draw(st.sampled_from([4, 8]))} if protocol == "few-shot" else {}
    return build_episode(protocol, source, target, draw(st.integers(0, 3)), **options)


def rows_of(episode: Episode) -> np.ndarray:
    return np.unique(
        np.concatenate([episode.train_rows, episode.validation_rows, *(test.rows for test in episode.tests)])
    )


def folds_of(outer: Episode, seed: int) -> list[Episode]:
    """Return the inner episodes; the example is discarded if the outer one is too small for them."""
    try:
        return nested_episodes(outer, seed=seed)
    except UserError:
        reject()


@settings(max_examples=60, deadline=None)
@given(outer_episodes(), st.integers(0, 5))
def test_inner_episodes_contain_only_training_and_validation_rows(outer: Episode, seed: int) -> None:
    folds = folds_of(outer, seed)
    source = outer.source
    available = np.concatenate([outer.train_rows, outer.validation_rows])
    tested = np.concatenate([test.rows for test in outer.tests])
    for inner in folds:
        rows = rows_of(inner)
        assert np.isin(rows, available).all() and not np.isin(rows, tested).any()
        classes = set(inner.train_classes).union(*(test.classes for test in inner.tests))
        assert classes <= set(outer.train_classes)
        assert set(source.labels[rows]) <= set(outer.train_classes)
        if outer.protocol in LEAVES_OUT:
            assert outer.target is not None
            target = source.domain_names.index(outer.target)
            assert target not in source.domains[rows] and inner.target != outer.target
        parts = [
            inner.train_rows,
            inner.validation_rows,
            np.unique(np.concatenate([t.rows for t in inner.tests])),
        ]
        together = np.concatenate(parts)
        assert len(np.unique(together)) == len(together)
        assert set(source.labels[np.concatenate(parts[:2])]) <= set(inner.train_classes)


@settings(max_examples=60, deadline=None)
@given(outer_episodes(), st.integers(0, 5))
def test_inner_tests_mirror_the_outer_protocol(outer: Episode, seed: int) -> None:
    folds = folds_of(outer, seed)
    domains = outer.train_domains
    if len(domains) > 1:  # each source domain is held out once
        assert sorted(str(inner.target) for inner in folds) == sorted(
            outer.source.domain_names[d] for d in domains
        )
    for inner in folds:
        assert [test.name for test in inner.tests] == [test.name for test in outer.tests]
        if inner.target is not None:
            held_out = outer.source.domain_names.index(inner.target)
            assert held_out not in inner.train_domains
            assert held_out not in outer.source.domains[inner.validation_rows]
            assert all((outer.source.domains[test.rows] == held_out).all() for test in inner.tests)
        for test, model in zip(inner.tests, outer.tests, strict=True):
            labels, new = outer.source.labels, set(test.classes) - set(inner.train_classes)
            assert bool(new) == bool(set(model.classes) - set(outer.train_classes))
            trained = np.isin(labels[test.rows], inner.train_classes)
            outer_trained = np.isin(labels[model.rows], outer.train_classes)
            assert (trained.any(), trained.all()) == (outer_trained.any(), outer_trained.all())


def test_in_the_wild_holds_out_a_domain_and_half_of_the_base_classes() -> None:
    outer = build_episode("in-the-wild", TableSource.grid(8, 4, 10), "domain-3")
    folds = nested_episodes(outer)
    assert len(folds) == 3 and len({inner.split_hash for inner in folds}) == 3
    for inner in folds:
        by_name = {test.name: test for test in inner.tests}
        assert len(inner.train_classes) == 2 and set(by_name["new"].classes) == {0, 1, 2, 3}
        assert len(by_name["base"].rows) == len(by_name["new"].rows) == 20
        assert len(inner.train_rows) + len(inner.validation_rows) == 2 * 2 * 10  # split 80/20 per domain
    # Consecutive folds swap base and new classes.
    assert set(folds[0].train_classes) | set(folds[1].train_classes) == set(outer.train_classes)


def test_domain_shift_keeps_all_classes() -> None:
    outer = build_episode("domain-shift", TableSource.grid(3, 4, 10), "domain-0")
    for inner in nested_episodes(outer):
        assert inner.train_classes == outer.train_classes == inner.tests[0].classes
        assert inner.tests[0].name == "all" and len(inner.tests[0].rows) == 30


def test_single_domain_keeps_the_shots_and_divides_the_validation_rows() -> None:
    outer = build_episode("few-shot", TableSource.grid(5, 1, 40), None, shots=4)
    first, second = nested_episodes(outer)
    assert np.array_equal(first.train_rows, outer.train_rows) and first.target is None
    assert np.array_equal(first.validation_rows, second.tests[0].rows)
    assert sorted([*first.validation_rows, *second.validation_rows]) == outer.validation_rows.tolist()
    labels = outer.source.labels
    assert set(labels[first.validation_rows]) == set(labels[first.tests[0].rows]) == set(range(5))


def test_folds_and_seed_select_domains_and_classes() -> None:
    outer = build_episode("in-the-wild", TableSource.grid(12, 4, 10), "domain-3")
    assert [f.split_hash for f in nested_episodes(outer, 2)] == [
        f.split_hash for f in nested_episodes(outer)[:2]
    ]
    assert nested_episodes(outer, 1, seed=1)[0].train_classes != nested_episodes(outer, 1)[0].train_classes
    six = nested_episodes(outer, 6)
    assert [f.target for f in six[3:]] == [f.target for f in six[:3]]
    assert len({f.split_hash for f in six}) == 6


def test_split_file_restores_an_inner_episode(tmp_path) -> None:
    outer = build_episode("in-the-wild", TableSource.grid(6, 3, 10), "domain-1")
    inner = nested_episodes(outer)[0]
    write_split(tmp_path / "split.json", inner, 0)
    again = read_split(tmp_path / "split.json", outer.source)
    assert again.split_hash == inner.split_hash and again.target == inner.target


def test_episode_without_classes_to_hold_out_is_an_error() -> None:
    outer = build_episode("in-the-wild", TableSource.grid(3, 3, 10), "domain-1")
    with pytest.raises(UserError, match=r"holds out half of the training classes, and .* has only 1"):
        nested_episodes(outer)


def test_unread_episode_checks_inner_rows_only() -> None:
    source = TableSource.grid(6, 3, 10)
    checked: list[int] = []

    def broken(rows: np.ndarray) -> dict[int, str]:
        checked.extend(rows.tolist())
        return {int(rows[0]): "damaged"}

    source.broken = broken  # type: ignore[method-assign]
    outer = unread_episode(SplitOptions(protocol="in-the-wild", target="domain-1"), source)
    assert not checked and not outer.skipped and outer.source is source
    (inner,) = nested_episodes(outer, 1)
    assert inner.skipped and not np.isin(checked, np.concatenate([t.rows for t in outer.tests])).any()
