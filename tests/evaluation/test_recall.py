from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn.functional import normalize
from torchmetrics.retrieval import RetrievalHitRate, RetrievalRecall

from clipalign.core.errors import UserError
from clipalign.evaluation.metrics import METRICS, recall
from clipalign.evaluation.metrics.recall import recalls

DIRECTIONS = ("text_to_image", "image_to_text")


def features(n: int, texts: int, width: int = 8, seed: int = 0) -> tuple[Tensor, Tensor, np.ndarray]:
    """Return image features, text features near them, and owners; each image has at least one text."""
    rng = np.random.default_rng(seed)
    images = torch.from_numpy(rng.normal(size=(n, width))).float() * 3
    owner = np.concatenate([np.arange(n), rng.integers(n, size=texts - n)])
    noise = torch.from_numpy(rng.normal(size=(texts, width))).float() * 3
    return images, normalize(images[owner] + noise, dim=1), owner


def literal(scores: np.ndarray, right: np.ndarray, k: int) -> float:
    """Return recall@k of queries [q, items] by sorting: mean of right items placed after and before their ties."""
    hits = []
    for score, is_right in zip(scores, right, strict=True):
        if is_right.any():
            for order in (np.lexsort((is_right, -score)), np.lexsort((~is_right, -score))):
                hits.append(is_right[order[:k]].any())
    return float(np.mean(hits))


def all_pairs(images: Tensor, texts: Tensor, masks: Tensor | None = None) -> np.ndarray:
    """Return scores [T, n], as they are defined."""
    images, texts = normalize(images.double(), dim=1), texts.double()
    if masks is not None:
        images = normalize(images[None] * masks.double()[:, None], dim=2)  # [T, n, D]
        return (images * texts[:, None]).sum(2).float().numpy()
    return (texts @ images.T).float().numpy()


def expected(scores: np.ndarray, right: np.ndarray, k: int, prefix: str = "") -> dict[str, float]:
    return {
        f"{prefix}text_to_image_recall@{k}": literal(scores, right, k),
        f"{prefix}image_to_text_recall@{k}": literal(scores.T, right.T, k),
    }


def own(owner: np.ndarray, n: int) -> np.ndarray:
    return owner[:, None] == np.arange(n)


@pytest.mark.parametrize("k", [1, 5, 10])
def test_recalls_match_sorting(k: int) -> None:
    images, texts, owner = features(30, 70)
    rng = np.random.default_rng(1)
    relevant = own(owner, 30) | (rng.random((70, 30)) < 0.05)
    masks = torch.from_numpy((rng.random(texts.shape) < 0.6).astype(np.float32))
    masks[3] = 0
    found = recalls(images, texts, owner, relevant=csr_array(relevant), masks=masks, ks=(k,), chunk=7)
    plain = all_pairs(images, texts)
    wanted = expected(plain, own(owner, 30), k)
    wanted |= expected(plain, relevant, k, "relevant_")
    wanted |= expected(all_pairs(images, texts, masks), own(owner, 30), k, "masked_")
    assert found == pytest.approx(wanted) and 0 < min(found.values()) < 1


def test_recall_fields_are_those_of_the_metric() -> None:
    images, texts, owner = features(4, 6)
    plain = {f"{name}_recall@{k}" for name in DIRECTIONS for k in (1, 5, 10)}
    assert set(recalls(images, texts, owner)) == plain
    assert list(recalls(images, texts, owner)) == [f.name for f in METRICS.get("recall").fields][:6]
    everything = recalls(images, texts, owner, relevant=csr_array(own(owner, 4)), masks=torch.ones(6, 8))
    assert set(everything) == {f.name for f in METRICS.get("recall").fields}
    assert set(everything) == {f"{kind}{name}" for kind in ("", "masked_", "relevant_") for name in plain}
    for name in plain:  # relevance of only the own image, and masks of ones, change nothing
        assert everything[name] == everything[f"masked_{name}"] == everything[f"relevant_{name}"]


def test_only_recall_at_1_of_the_plain_scores_is_a_headline() -> None:
    headlines = [field.name for field in METRICS.get("recall").fields if field.headline]
    assert headlines == ["text_to_image_recall@1", "image_to_text_recall@1"]


@pytest.mark.parametrize("k", [1, 5])
def test_recalls_match_torchmetrics(k: int) -> None:
    images, texts, owner = features(25, 60, seed=2)
    scores, right = torch.from_numpy(all_pairs(images, texts)), torch.from_numpy(own(owner, 25))
    found = recalls(images, texts, owner, ks=(k,))
    by_text = torch.arange(60)[:, None].expand(60, 25).flatten()
    expected_recall = RetrievalRecall(top_k=k)(scores.flatten(), right.flatten(), indexes=by_text)
    assert found[f"text_to_image_recall@{k}"] == pytest.approx(float(expected_recall))
    by_image = torch.arange(25)[:, None].expand(25, 60).flatten()
    hits = RetrievalHitRate(top_k=k)(scores.T.flatten(), right.T.flatten(), indexes=by_image)
    assert found[f"image_to_text_recall@{k}"] == pytest.approx(float(hits))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(0, 20), st.integers(1, 40), st.booleans())
def test_recalls_are_independent_of_blocks_and_order(
    seed: int, n: int, more: int, chunk: int, ties: bool
) -> None:
    images, texts, owner = features(n, n + more, width=3, seed=seed)
    if ties:  # few distinct items, so most scores are equal
        images = images.round().clamp(-1, 1) + torch.tensor([0.0, 0.0, 2.0])
        texts = normalize(texts.round() + torch.tensor([0.0, 0.0, 2.5]), dim=1)
    whole = recalls(images, texts, owner, masks=texts.abs().round() + 0.5)
    assert recalls(images, texts, owner, masks=texts.abs().round() + 0.5, chunk=chunk) == whole
    order = np.random.default_rng(seed).permutation(len(texts))
    swapped = recalls(images, texts[order], owner[order], masks=(texts.abs().round() + 0.5)[order])
    assert swapped == pytest.approx(whole)
    assert whole["text_to_image_recall@1"] == pytest.approx(
        literal(all_pairs(images, texts), own(owner, n), 1)
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_recall_increases_with_k_and_relevance(seed: int) -> None:
    images, texts, owner = features(9, 20, width=3, seed=seed)
    relevant = own(owner, 9) | (np.random.default_rng(seed).random((20, 9)) < 0.2)
    found = recalls(images, texts, owner, relevant=csr_array(relevant), ks=(1, 3, 9, 20))
    for name in DIRECTIONS:
        plain = [found[f"{name}_recall@{k}"] for k in (1, 3, 9, 20)]
        assert plain == sorted(plain) and plain[-1] == 1
        assert all(found[f"relevant_{name}_recall@{k}"] >= found[f"{name}_recall@{k}"] for k in (1, 3, 9))


def test_ties_count_half() -> None:
    images, texts = torch.ones(2, 3), normalize(torch.ones(2, 3), dim=1)
    found = recalls(images, texts, np.array([0, 1]), ks=(1, 2))
    assert found == dict.fromkeys(found, 0.5) | {f"{name}_recall@2": 1.0 for name in DIRECTIONS}


def test_images_without_captions_are_only_candidates() -> None:
    images = torch.eye(3)
    found = recalls(images, images[[2, 2]], np.array([1, 2]), ks=(1,))
    # Image 0 is no query; one of the texts is closer to another image than to its own.
    assert found == {"text_to_image_recall@1": 0.5, "image_to_text_recall@1": pytest.approx(0.5)}


def test_mask_of_zeros_scores_zero() -> None:
    images, texts = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[-1.0, 0.0], [0.0, -1.0]])
    found = recalls(images, texts, np.array([0, 1]), masks=torch.tensor([[0.0, 0.0], [1.0, 1.0]]), ks=(1,))
    # The first text scores 0 with both images: a tie. The second scores -1 with its own and 0 with the other.
    assert found["masked_text_to_image_recall@1"] == 0.25
    # Image 0 scores 0 with both texts; image 1 scores 0 with the wrong one and -1 with its own.
    assert found["masked_image_to_text_recall@1"] == 0.25


def test_blocks_are_at_most_chunk_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    images, texts, owner = features(50, 130)
    shapes: list[tuple[int, ...]] = []
    block = recall._Scores.block

    def recorded(self: recall._Scores, rows: slice, columns: slice) -> Tensor:
        scores = block(self, rows, columns)
        shapes.append(tuple(scores.shape))
        return scores

    monkeypatch.setattr(recall._Scores, "block", recorded)
    recalls(images, texts, owner, chunk=20)
    assert len(shapes) == 3 * 7 and max(map(max, shapes)) == 20
    assert sum(a * b for a, b in shapes) == 50 * 130  # and each score is computed once


def test_features_that_are_not_finite_raise() -> None:
    images, texts, owner = features(3, 4)
    images[1, 0] = torch.nan  # every comparison with it would be false, and recall 1
    with pytest.raises(UserError, match="not finite"):
        recalls(images, texts, owner)


@pytest.mark.parametrize("owner", [[0, 1], [0, 1, 3], [0, -1, 1]])
def test_owners_out_of_range_raise(owner: list[int]) -> None:
    images, texts, _ = features(3, 3)
    with pytest.raises(ValueError):
        recalls(images, texts, np.array(owner))
