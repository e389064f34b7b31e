from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipalign.core.errors import UserError
from clipalign.core.types import FixedSplits
from clipalign.data.splits import hold_out, load_fixed_splits, seed_hash, three_way

# Trial -> values of DomainBed's seed_hash for domains 0 to 5.
SEEDS = {
    0: [894182419, 1514274641, 1325548499, 1796103049, 1773288162, 1833038383],
    1: [785910682, 1442673865, 1981683110, 1739848239, 582996474, 65219121],
    2: [472130416, 181139023, 248334461, 1709828778, 402558190, 941488192],
}
SHUFFLES = {
    0: [2, 3, 8, 1, 4, 5, 0, 9, 6, 7],
    1: [3, 7, 9, 0, 5, 4, 2, 8, 6, 1],
    2: [6, 1, 9, 3, 4, 8, 2, 5, 7, 0],
}
WILD = {
    "base": [1300057093, 2104057753, 735095425, 1568238974, 311290387, 1582072017],
    "open": [527686234, 174577647, 57768207, 121081924, 1599659985, 1196424032],
}
# Domain of PACS -> images, rows held out, first rows held out.
PACS = {
    0: (2048, 409, [548, 677, 1997, 977, 1553]),
    1: (2344, 468, [1488, 562, 461, 570, 2092]),
    2: (1670, 334, [1441, 1432, 282, 669, 637]),
    3: (3929, 785, [2743, 2083, 2744, 3449, 1159]),
}


@given(st.integers(0, 200), st.integers(0, 2**31 - 1), st.floats(0, 1))
def test_hold_out_is_a_partition_of_the_documented_size(count: int, seed: int, fraction: float) -> None:
    rows = np.arange(count) + 7
    kept, held_out = hold_out(rows, seed, fraction)
    assert np.array_equal(np.sort(np.concatenate([kept, held_out])), rows)
    assert len(held_out) == int(count * fraction)


@given(st.integers(1, 300), st.integers(0, 2**31 - 1))
def test_three_way_is_a_partition_with_no_empty_part_from_three_rows_on(count: int, seed: int) -> None:
    rows = np.arange(count)
    parts = three_way(rows, seed)
    assert np.array_equal(np.sort(np.concatenate(parts)), rows)
    assert count < 3 or all(len(part) for part in parts)
    assert len(parts[2]) >= 1


@pytest.mark.parametrize("trial", SEEDS)
def test_seed_hash_equals_domainbed(trial: int) -> None:
    assert [seed_hash(trial, domain) for domain in range(6)] == SEEDS[trial]


@pytest.mark.parametrize("part", WILD)
def test_seed_hash_equals_clipood_for_parts(part: str) -> None:
    assert [seed_hash(0, domain, part) for domain in range(6)] == WILD[part]


@pytest.mark.parametrize("trial", SHUFFLES)
def test_hold_out_shuffles_as_domainbed(trial: int) -> None:
    kept, held = hold_out(np.arange(10), seed_hash(trial, 0))
    assert [*held, *kept] == SHUFFLES[trial]
    assert len(held) == 2


@pytest.mark.parametrize("domain", PACS)
def test_hold_out_equals_the_published_split_of_pacs(domain: int) -> None:
    images, size, first = PACS[domain]
    kept, held = hold_out(np.arange(images), seed_hash(0, domain))
    assert (len(held), len(kept)) == (size, images - size)
    assert held[:5].tolist() == first


def test_hold_out_keeps_the_published_rows_of_pacs_art() -> None:
    kept, _ = hold_out(np.arange(2048), seed_hash(0, 0))
    assert kept[:5].tolist() == [895, 510, 1575, 933, 362]


@pytest.mark.parametrize(("images", "size"), [(1415, 283), (2656, 531), (4357, 871), (172947, 34589)])
def test_hold_out_rounds_down(images: int, size: int) -> None:
    assert len(hold_out(np.arange(images), 0)[1]) == size


@pytest.mark.parametrize(
    ("images", "sizes"), [(1, (0, 0, 1)), (2, (1, 0, 1)), (3, (1, 1, 1)), (4, (2, 1, 1)), (100, (50, 20, 30))]
)
def test_three_way_gives_the_documented_shares(images: int, sizes: tuple[int, int, int]) -> None:
    parts = three_way(np.arange(images) + 7, seed=3)
    assert tuple(len(part) for part in parts) == sizes
    assert sorted(np.concatenate(parts)) == list(range(7, 7 + images))


CLASSES, DOMAINS = ["apple", "bee", "cat", "dog"], ["ink", "oil"]
LABELS, DOMAIN_OF = np.array([0, 1, 2, 3, 0, 1, 2, 3]), np.array([0, 0, 0, 0, 1, 1, 1, 1])


def split_file() -> dict:
    return {
        "format": 1,
        "seed": 5,
        "rule": "by hand",
        "base": ["apple", "cat"],
        "new": ["bee", "dog"],
        "domain_split": {
            "ink": {"train": ["apple", "bee", "cat"], "validation": ["dog"]},
            "oil": {"train": ["dog", "cat", "bee"], "validation": ["apple"]},
        },
        # One test row and one validation row per class; two domains leave none for training.
        "base_to_new": {name: {"train": [], "validation": "ink", "test": "oil"} for name in CLASSES},
    }


def load(tmp_path: Path, content: object) -> FixedSplits:
    path = tmp_path / "splits.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return load_fixed_splits(path, CLASSES, DOMAINS, LABELS, DOMAIN_OF)


def test_load_fixed_splits_finds_rows_by_name(tmp_path: Path) -> None:
    splits = load(tmp_path, split_file())
    assert splits.base == {0, 2} and splits.new == {1, 3}
    assert splits.domain_train[1].tolist() == [5, 6, 7]
    assert splits.domain_validation[0].tolist() == [3]
    assert splits.base_to_new_test.tolist() == [4, 5, 6, 7]
    assert (splits.rule, splits.seed) == ("by hand", 5)


def broken(change: str) -> dict:
    data = split_file()
    if change == "class in both halves":
        data["new"] = ["bee", "dog", "cat"]
    elif change == "class in no half":
        data["new"] = ["bee"]
    elif change == "unknown class":
        data["base"] = ["apple", "yak"]
    elif change == "unknown domain":
        data["domain_split"]["crayon"] = {"train": [], "validation": []}
    elif change == "row in train and validation":
        data["domain_split"]["ink"]["validation"] = ["dog", "bee"]
    elif change == "row forgotten":
        data["domain_split"]["oil"]["train"] = ["dog"]
    elif change == "row tested and trained on":
        data["base_to_new"]["bee"]["train"] = ["oil"]
    elif change == "key missing":
        del data["domain_split"]
    return data


@pytest.mark.parametrize(
    "change",
    [
        "class in both halves",
        "class in no half",
        "unknown class",
        "unknown domain",
        "row in train and validation",
        "row forgotten",
        "row tested and trained on",
        "key missing",
    ],
)
def test_load_fixed_splits_refuses_files_that_do_not_fit(tmp_path: Path, change: str) -> None:
    with pytest.raises(UserError, match=r"splits\.json"):
        load(tmp_path, broken(change))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not valid JSON"),
        (b"{", "is not valid JSON"),
        (b"[]", "not a readable split file"),
        (b"\xff\xfe", "is not UTF-8 text"),
    ],
)
def test_load_fixed_splits_refuses_other_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "splits.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_fixed_splits(path, CLASSES, DOMAINS, LABELS, DOMAIN_OF)
