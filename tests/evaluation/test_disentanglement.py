"""Disentanglement of masks: against a literal implementation with sets, and on masks with known results."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import jaccard_score, roc_auc_score
from torch import Tensor

from clipalign.evaluation.disentanglement import active_dimensions, disentanglement, overlap

LABELS = {"kind": ("x", "x", "y", "y", "z", "z")}
PAIRS = np.array(list(combinations(range(6), 2)))


def sets_of(masks: Tensor) -> list[set[int]]:
    return [set(torch.nonzero(row >= 0.5).flatten().tolist()) for row in masks]


def jaccard(a: set[int], b: set[int]) -> float:
    return len(a & b) / len(a | b) if a | b else 1.0


def literal(single: Tensor, joined: Tensor, pairs: np.ndarray) -> dict[str, tuple[float, float]]:
    """Return (score, chance) of union and intersection, computed with sets and loops."""
    ones, twos = sets_of(single), sets_of(joined)
    members = [set(pair) for pair in pairs.tolist()]
    union, by_chance = [], []
    for p, (a, b) in enumerate(pairs.tolist()):
        union.append(jaccard(ones[a] | ones[b], twos[p]))
        foreign = [q for q in range(len(pairs)) if not members[p] & members[q]]
        if foreign:
            by_chance.append(np.mean([jaccard(ones[a] | ones[b], twos[q]) for q in foreign]))
    common, common_by_chance = [], []
    for p, q in combinations(range(len(pairs)), 2):
        shared = members[p] & members[q]
        if len(shared) != 1:
            continue
        found = twos[p] & twos[q]
        common.append(jaccard(found, ones[shared.pop()]))
        foreign = [c for c in range(len(ones)) if c not in members[p] | members[q]]
        if foreign:
            common_by_chance.append(np.mean([jaccard(found, ones[c]) for c in foreign]))
    return {
        "union": (np.mean(union), np.mean(by_chance)),
        "intersection": (np.mean(common), np.mean(common_by_chance)),
    }


def hard(shape: tuple[int, int], share: float, seed: int) -> Tensor:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share).float()


def modular(width: int = 3) -> tuple[Tensor, Tensor]:
    """Return masks in which concept c has dimensions c * width to (c + 1) * width - 1, and unions of pairs."""
    single = torch.eye(6).repeat_interleave(width, dim=1)
    return single, torch.maximum(single[PAIRS[:, 0]], single[PAIRS[:, 1]])


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]),
    st.integers(1, 9),
    st.lists(st.sampled_from(PAIRS.tolist()), min_size=1, max_size=15),
)
def test_disentanglement_matches_sets(seed: int, share: float, width: int, chosen: list[list[int]]) -> None:
    pairs = np.array(chosen)
    single, joined = hard((6, width), share, seed), hard((len(pairs), width), share, seed + 1)
    found = disentanglement(single, joined, pairs, LABELS)
    with np.errstate(all="ignore"), pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_, **__: None)  # means of empty arrays
        known = literal(single, joined, pairs)
    for name, (score, chance) in known.items():
        match = getattr(found, name)
        assert match.score == (None if np.isnan(score) else pytest.approx(score))
        assert match.chance == (None if np.isnan(chance) else pytest.approx(chance))
        if match.excess is not None:
            assert match.excess <= 1 + 1e-12
            expected = 0 if match.chance == 1 else (match.score - match.chance) / (1 - match.chance)
            assert match.excess == pytest.approx(expected)
    sets = sets_of(single)
    same = [LABELS["kind"][a] == LABELS["kind"][b] for a, b in PAIRS]
    values = [jaccard(sets[a], sets[b]) for a, b in PAIRS]
    relation = found.relations["kind"]
    assert relation.related == pytest.approx(np.mean([v for v, s in zip(values, same, strict=True) if s]))
    assert relation.unrelated == pytest.approx(
        np.mean([v for v, s in zip(values, same, strict=True) if not s])
    )
    assert relation.auroc == pytest.approx(roc_auc_score(same, values))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_overlap_matches_definition(seed: int, soft: bool) -> None:
    a = torch.rand(4, 7, generator=torch.Generator().manual_seed(seed))
    b = torch.rand(3, 7, generator=torch.Generator().manual_seed(seed + 1))
    if not soft:
        a, b = a.round(), b.round()
    known = [[float(torch.minimum(x, y).sum() / torch.maximum(x, y).sum()) for y in b] for x in a]
    torch.testing.assert_close(
        overlap(a, b), torch.tensor(known).nan_to_num(1.0).double(), atol=1e-6, rtol=1e-6
    )
    torch.testing.assert_close(overlap(b, a), overlap(a, b).T)
    torch.testing.assert_close(overlap(a, a).diag(), torch.ones(4, dtype=torch.float64))
    if not soft:
        peer = jaccard_score(a[0].numpy(), b[0].numpy(), zero_division=1.0)
        assert float(overlap(a, b)[0, 0]) == pytest.approx(float(peer) if (a[0] + b[0]).any() else 1.0)


def test_modular_masks_score_1() -> None:
    for soften in (False, True):
        single, joined = modular()
        if soften:  # the same order of entries, not binary
            single, joined = 0.7 * single, 0.7 * joined
        found = disentanglement(single, joined, PAIRS, LABELS)
        for match in (found.union, found.intersection):
            assert match.score == match.excess == 1 and match.chance == 0
        assert (found.union.count, found.intersection.count) == (15, 6 * 10)
        assert found.single.mean == 3 and found.joined.mean == 6


def test_random_masks_have_no_excess() -> None:
    for share in (0.1, 0.5, 0.95):
        single, joined = hard((6, 20000), share, 0), hard((15, 20000), share, 1)
        found = disentanglement(single, joined, PAIRS, LABELS)
        for match in (found.union, found.intersection):
            assert abs(match.excess or 0.0) < 0.03
        # Wide random masks have a high score, which is why the excess is reported.
        assert share < 0.9 or (found.union.score or 0) > 0.9


def test_shared_dimensions_do_not_change_the_excess() -> None:
    single, joined = modular()
    found = disentanglement(
        torch.cat([single, torch.ones(6, 500)], 1), torch.cat([joined, torch.ones(15, 500)], 1), PAIRS, LABELS
    )
    assert found.union.excess == found.intersection.excess == 1
    assert (found.union.chance or 0) > 0.9


def test_masks_of_only_one_concept_have_intermediate_excess() -> None:
    single, _ = modular()
    found = disentanglement(single, single[PAIRS[:, 0]], PAIRS, LABELS)
    assert found.union.score == 0.5 and 0 < (found.union.excess or 0) < 1
    assert 0 < (found.intersection.excess or 0) < 1


@pytest.mark.parametrize(("value", "empty", "full"), [(0.0, 1.0, 0.0), (1.0, 0.0, 1.0)])
def test_constant_masks_have_no_excess(value: float, empty: float, full: float) -> None:
    single, joined = torch.full((6, 8), value), torch.full((15, 8), value)
    found = disentanglement(single, joined, PAIRS, LABELS)
    for match in (found.union, found.intersection):
        assert (match.score, match.chance, match.excess) == (1, 1, 0)
    relation = found.relations["kind"]
    assert (relation.related, relation.unrelated, relation.auroc) == (1, 1, 0.5)
    assert (found.single.empty, found.single.full, found.single.mean) == (empty, full, 8 * value)


def test_relations_compare_related_and_unrelated_overlap() -> None:
    single = torch.tensor([[1, 1, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 1, 1.0]])
    found = disentanglement(single, single[:0], PAIRS[:0], {"kind": "xxyy", "all": "xxxx", "each": "abcd"})
    kind, together, apart = (found.relations[name] for name in ("kind", "all", "each"))
    assert kind.related == pytest.approx(1 / 3) and kind.unrelated == 0 and kind.auroc == 1
    assert (kind.related_pairs, kind.unrelated_pairs) == (2, 4)
    assert together.auroc is None and together.unrelated is None and together.related_pairs == 6
    assert apart.auroc is None and apart.related is None
    assert found.union.score is None and found.intersection.count == 0 and found.joined.mean == 0


def test_chance_is_none_without_foreign_texts() -> None:
    single = modular()[0][:3]
    found = disentanglement(single, single[:1], np.array([[0, 1]]), {})
    assert found.union.score == 0.5 and found.union.chance is None and found.union.excess is None


def test_active_dimensions_are_counted() -> None:
    found = active_dimensions(torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.2, 1.0], [0.9, 1.0, 0.6]]))
    assert (found.mean, found.minimum, found.maximum, found.dimensions) == (pytest.approx(5 / 3), 0, 3, 3)
    assert found.size == pytest.approx(4.2 / 3) and found.empty == found.full == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("single", "joined", "pairs", "message"),
    [
        (torch.rand(3, 4), torch.rand(2, 4), [[0, 1]], "1 pairs"),
        (torch.rand(3, 4), torch.rand(1, 5), [[0, 1]], "4 dimensions"),
        (torch.rand(3, 4) + 1.5, torch.rand(1, 4), [[0, 1]], r"\[0, 1\]"),
        (torch.full((3, 4), torch.nan), torch.rand(1, 4), [[0, 1]], r"\[0, 1\]"),
        (torch.rand(3, 4), torch.rand(1, 4), [[1, 1]], "two different"),
        (torch.rand(3, 4), torch.rand(1, 4), [[0, 3]], "two different"),
    ],
)
def test_invalid_masks_pairs_or_labels_raise(
    single: Tensor, joined: Tensor, pairs: list, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        disentanglement(single, joined, np.array(pairs), {})
    with pytest.raises(ValueError, match="labels"):
        disentanglement(torch.rand(3, 4), torch.rand(1, 4), np.array([[0, 1]]), {"kind": "xy"})
