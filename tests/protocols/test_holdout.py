from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedShuffleSplit

from clipalign.core.errors import UserError
from clipalign.core.types import Episode
from clipalign.data.registry import load_source
from clipalign.protocols import build_episode, default_protocol
from clipalign.protocols.holdout import divide
from tests.helpers.sources import TableSource
from tests.protocols.test_protocols import check_invariants, fixed


def source_of(labels: list[int], groups: list[int] | None = None) -> TableSource:
    source = TableSource(labels, [0] * len(labels), max(labels) + 1, 1)
    if groups is not None:
        source.groups = tuple(f"group {g}" for g in groups)
    return source


def parts_of(episode: Episode) -> list[np.ndarray]:
    return [episode.train_rows, episode.validation_rows, episode.tests[0].rows]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(0, 4), min_size=12, max_size=150),
    st.lists(st.floats(0.05, 1), min_size=3, max_size=3),
    st.integers(0, 3),
)
def test_holdout_is_a_stratified_partition_for_any_labels(
    labels: list[int], ratios: list[float], seed: int
) -> None:
    source = source_of(labels)
    try:
        episode = build_episode("holdout", source, None, seed, ratios=ratios)
    except UserError as error:  # every class has too few rows for three parts
        assert "leaves no images" in str(error) and np.bincount(labels).max() < 3
        return
    check_invariants(episode)
    parts = parts_of(episode)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    shares = np.array(ratios) / sum(ratios)
    counts = np.array([np.bincount(source.labels[rows], minlength=5) for rows in parts])  # [3, classes]
    sizes = counts.sum(0)
    assert np.all(np.abs(counts - shares[:, None] * sizes) < 3)  # rounding, and one row for every part
    assert np.all(counts[:, sizes >= 3] > 0)
    assert np.all(counts[0][sizes > 0] > 0)  # a class that is tested has been trained


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), min_size=5, max_size=120), st.integers(0, 3)
)
def test_holdout_never_divides_a_group(pairs: list[tuple[int, int]], seed: int) -> None:
    labels, groups = [c for c, _ in pairs], [g for _, g in pairs]
    try:
        episode = build_episode("holdout", source_of(labels, groups), None, seed)
    except UserError as error:
        assert "leaves no images" in str(error) and len(set(groups)) < 3
        return
    found = [{groups[row] for row in rows} for rows in parts_of(episode)]
    assert sum(map(len, found)) == len(set(groups))
    assert sum(map(len, parts_of(episode))) == len(labels)


def test_class_shares_of_grouped_parts_are_close_to_the_ratios() -> None:
    random = np.random.default_rng(0)
    groups = random.integers(0, 120, 2000)
    labels = (groups % 3 + (random.random(2000) < 0.3)) % 3  # the groups of a class differ in size and purity
    episode = build_episode("holdout", source_of(labels.tolist(), groups.tolist()), None)
    counts = np.array([np.bincount(labels[rows], minlength=3) for rows in parts_of(episode)])
    np.testing.assert_allclose(counts / counts.sum(0), np.array([[0.7, 0.1, 0.2]] * 3).T, atol=0.02)


def test_class_counts_equal_those_of_scikit_learn() -> None:
    labels = np.repeat([0, 1, 2], [100, 50, 250])
    episode = build_episode("holdout", source_of(labels.tolist()), None, ratios=(60, 20, 20))
    _, test = next(StratifiedShuffleSplit(1, test_size=0.2, random_state=0).split(labels, labels))
    np.testing.assert_array_equal(np.bincount(labels[test]), np.bincount(labels[episode.tests[0].rows]))


def test_sizes_sum_to_the_number_of_rows() -> None:
    for shares in ([0.7, 0.1, 0.2], [0.1, 0.1, 0.8], [0.875, 0.125]):
        for count in range(40):
            sizes = divide(count, np.array(shares))
            assert sizes.sum() == count and sizes.min() >= (count >= len(shares))


def test_holdout_follows_seed_and_ratios() -> None:
    source = TableSource.grid(classes=3, domains=1, images=20)
    first = build_episode("holdout", source, None, 0)
    assert [len(rows) for rows in parts_of(first)] == [42, 6, 12]
    assert first.rule == "70/10/20 per class, split seed 0"
    assert first.split_hash == build_episode("holdout", source, None, 0).split_hash
    others = [
        build_episode("holdout", source, None, 1),
        build_episode("holdout", source, None, 0, ratios=(0.6, 0.2, 0.2)),
    ]
    assert len({episode.split_hash for episode in [first, *others]}) == 3


def test_holdout_uses_shipped_splits() -> None:
    source = TableSource.grid(classes=6, domains=3, images=5)
    source.splits = splits = fixed(source)
    episode = build_episode("holdout", source, None, 3)
    np.testing.assert_array_equal(episode.train_rows, splits.base_to_new_train)
    np.testing.assert_array_equal(episode.tests[0].rows, splits.base_to_new_test)
    assert episode.rule == "shipped" and episode.train_domains == (0, 1, 2)
    one = build_episode("holdout", source, "domain-1", 3).tests[0].rows
    assert set(source.domains[one]) == {1} and set(one) <= set(splits.base_to_new_test)


@pytest.mark.parametrize(
    "names", [("train", "validation", "test"), ("train", "test"), ("train", "validation")]
)
def test_own_parts_are_used_and_completed(names: tuple[str, ...]) -> None:
    source = TableSource.grid(classes=2, domains=1, images=30)
    own = dict(zip(names, np.array_split(np.arange(60), len(names)), strict=True))
    empty = np.empty(0, np.int64)
    source.parts = {part: own.get(part, empty) for part in ("train", "validation", "test")}
    episode = build_episode("holdout", source, None)
    check_invariants(episode)
    tested = own.get("test", own.get("validation"))
    np.testing.assert_array_equal(episode.tests[0].rows, tested)
    if len(names) == 3:
        np.testing.assert_array_equal(episode.train_rows, own["train"])
    else:
        assert set(episode.train_rows) | set(episode.validation_rows) == set(own["train"])
        assert "held out of training" in episode.rule


def test_default_protocol_is_holdout_for_one_domain() -> None:
    assert default_protocol(captions=False, domains=1) == "holdout"
    assert default_protocol(captions=False, domains=2) == "domain-shift"
    assert default_protocol(captions=True, domains=1) == "retrieval"


def test_holdout_names_invalid_input() -> None:
    source = TableSource.grid(classes=2, domains=1, images=30)
    for ratios in ((0.5, 0.5), (1.0, 0.0, 1.0), (1.0, float("nan"), 1.0)):
        with pytest.raises(UserError, match="--ratios takes three positive numbers"):
            build_episode("holdout", source, None, ratios=ratios)
    with pytest.raises(UserError, match="--ratios is for --protocol holdout, not few-shot"):
        build_episode("few-shot", source, None, ratios=(1, 1, 1))
    with pytest.raises(UserError, match="only one; --protocol holdout"):
        build_episode("domain-shift", source, "domain-0")
    source.groups = ("one",) * 60
    with pytest.raises(UserError, match="--group-column is for --protocol holdout, not few-shot"):
        build_episode("few-shot", source, None)
    with pytest.raises(UserError, match="leaves no images"):
        build_episode("holdout", source, None)
    source.parts = dict(zip(("train", "validation", "test"), np.array_split(np.arange(60), 3), strict=True))
    with pytest.raises(UserError, match='has group "one" in both training and validation'):
        build_episode("holdout", source, None)
    with pytest.raises(UserError, match=r"--ratios: .* own split"):
        build_episode("holdout", source, None, ratios=(1, 1, 1))


def test_group_column_of_a_table(squares_folder: Path, tmp_path: Path) -> None:
    files = sorted(squares_folder.rglob("*.png"))
    lines = [f"{path},{path.parent.name},camera {i % 7}" for i, path in enumerate(files)]
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["path,label,Camera", *lines]) + "\n")
    assert load_source(str(table)).groups is None
    source = load_source(str(table), group_column="camera")
    assert source.groups == tuple(f"camera {i % 7}" for i in range(len(files)))
    assert source.fingerprint() == load_source(str(table)).fingerprint()
    with pytest.raises(UserError, match=r"no column .camra.*--group-column COLUMN"):
        load_source(str(table), group_column="camra")
    with pytest.raises(UserError, match=r"--group-column: .*needs a table"):
        load_source(str(squares_folder), group_column="camera")
    table.write_text("\n".join(["path,label,camera", *lines, f"{files[0]},a,"]) + "\n")
    with pytest.raises(UserError, match="line 62: no group"):
        load_source(str(table), group_column="camera")
