"""Targets of smoothed cross-entropies and CLIPood's margin: equations, published numbers, gradients, invariants."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clipalign import losses
from tests.losses.reference import IMAGE, LABELS, TEXT, B, C, D, cosine, draw, softmax

# Heat maps published with AlignCLIP's code: row softmax of 35 * cosine for ViT-B/16, two significant digits.
VLCS = [
    [0.95, 0.0045, 0.00075, 0.025, 0.019],
    [0.0048, 0.97, 0.00096, 0.0093, 0.011],
    [0.00081, 0.00098, 1.0, 0.00094, 0.001],
    [0.025, 0.0089, 0.00088, 0.94, 0.029],
    [0.019, 0.01, 0.00099, 0.029, 0.94],
]  # bird, car, chair, dog, person
PACS = [
    [0.91, 0.0049, 0.00051, 0.005, 0.044, 0.013, 0.028],
    [0.0053, 0.97, 0.0023, 0.0004, 0.016, 0.00072, 0.0016],
    [0.00056, 0.0023, 0.99, 0.00016, 0.0032, 6.1e-5, 0.00016],
    [0.0054, 0.0004, 0.00016, 0.99, 0.003, 0.0024, 0.0034],
    [0.043, 0.014, 0.0028, 0.0027, 0.92, 0.0065, 0.011],
    [0.013, 0.00072, 5.9e-5, 0.0024, 0.007, 0.97, 0.0095],
    [0.029, 0.0016, 0.00015, 0.0033, 0.012, 0.0093, 0.94],
]  # dog, elephant, giraffe, guitar, horse, house, person


def cosines_of(heat_map: list[list[float]]) -> Tensor:
    """Invert the row softmax: S_ij = 1 + ln(D_ij / D_ii) / 35, averaged with its transpose."""
    d = torch.tensor(heat_map, dtype=torch.float64)
    s = 1 + (d / d.diagonal().unsqueeze(1)).log() / 35
    return (s + s.T) / 2


@pytest.mark.parametrize("heat_map", [VLCS, PACS], ids=["VLCS", "PACS"])
def test_released_targets_reproduce_published_heat_maps(heat_map: list[list[float]]) -> None:
    targets = losses.released_semantic_targets(cosines_of(heat_map), 0.9, 35)
    for i, row in enumerate(heat_map):
        assert targets[i, i].item() == 0.9
        for j, value in enumerate(row):
            if i != j:
                assert targets[i, j].item() == pytest.approx(value, rel=0.1)


@pytest.mark.parametrize("heat_map", [VLCS, PACS], ids=["VLCS", "PACS"])
def test_sharpness_for_the_published_share_of_other_classes_is_35(heat_map: list[list[float]]) -> None:
    d = torch.tensor(heat_map, dtype=torch.float64)
    share = float((d.sum(1) - d.diagonal()).mean())
    assert share == pytest.approx(0.042, abs=0.003)
    assert losses.sharpness_for_mass(cosines_of(heat_map), share) == pytest.approx(35, rel=0.03)
    # Cosines that spread three times as much need a third of the sharpness.
    spread = 1 - 3 * (1 - cosines_of(heat_map))
    assert losses.sharpness_for_mass(spread, share) == pytest.approx(35 / 3, rel=0.03)


def test_heat_maps_contain_published_cosines() -> None:
    vlcs, pacs = cosines_of(VLCS), cosines_of(PACS)
    assert vlcs[0, 1].item() == pytest.approx(0.847, abs=0.003)  # bird, car
    assert vlcs[0, 2].item() == pytest.approx(0.796, abs=0.003)  # bird, chair
    assert pacs[0, 6].item() == pytest.approx(0.90, abs=0.003)  # dog, person
    assert pacs[2, 5].item() == pytest.approx(0.72, abs=0.003)  # giraffe, house


def test_targets_of_class_dog_match_published_numbers() -> None:
    released = losses.released_semantic_targets(cosines_of(VLCS), 0.9, 35)[3]
    assert released.tolist() == pytest.approx([0.025, 0.0089, 0.00088, 0.9, 0.029], rel=0.05)
    assert released.sum().item() == pytest.approx(0.964, abs=0.002)
    similarity = torch.eye(5, dtype=torch.float64)
    similarity[3] = torch.tensor([0.896, 0.867, 0.801, 1.0, 0.901], dtype=torch.float64)  # cosines to dog
    paper = losses.semantic_targets(similarity, 0.1)[3]
    soft = [0.2003, 0.1945, 0.1820, 0.2221, 0.2011]
    assert similarity[3].softmax(0).tolist() == pytest.approx(soft, abs=2e-4)  # cosines have three digits
    assert paper[3].item() == pytest.approx(0.9222, abs=1e-4)
    others = [0.1 * value for i, value in enumerate(soft) if i != 3]
    assert paper[[0, 1, 2, 4]].tolist() == pytest.approx(others, abs=2e-5)
    assert paper.sum().item() == pytest.approx(1)


def test_targets_match_their_equations() -> None:
    s = losses.class_similarity(TEXT)
    for y in range(C):
        cosines = [cosine(TEXT[y], TEXT[k]) for k in range(C)]
        assert s[y].tolist() == pytest.approx(cosines, abs=1e-12)
        soft, sharp = softmax(cosines), softmax([7 * v for v in cosines])
        for k in range(C):
            one_hot = float(k == y)
            paper = losses.semantic_targets(s, 0.2)[y, k].item()
            assert paper == pytest.approx(0.8 * one_hot + 0.2 * soft[k])
            raw = losses.semantic_targets(s, 0.2, raw=True)[y, k].item()
            assert raw == pytest.approx(0.8 * one_hot + 0.2 * cosines[k])
            released = losses.released_semantic_targets(s, 0.9, 7)[y, k].item()
            assert released == pytest.approx(0.9 if k == y else sharp[k])
            uniform = losses.uniform_targets(C, 0.2)[y, k].item()
            assert uniform == pytest.approx(0.8 * one_hot + 0.2 / C)


def test_soft_cross_entropy_matches_its_sum_and_pytorch() -> None:
    logits = draw(B, C, seed=7)
    targets = draw(B, C, seed=8).abs()  # not normalised
    expected = 0.0
    for b in range(B):
        p = softmax(logits[b].tolist())
        expected -= sum(float(targets[b, k]) * math.log(p[k]) for k in range(C)) / B
    assert losses.soft_cross_entropy(logits, targets).item() == pytest.approx(expected, rel=1e-12)
    smoothed = losses.soft_cross_entropy(logits, losses.uniform_targets(C, 0.1).double()[LABELS])
    pytorch = torch.nn.functional.cross_entropy(logits, LABELS, label_smoothing=0.1)
    assert smoothed.item() == pytest.approx(pytorch.item(), rel=1e-6)


def test_sum_of_unnormalised_targets_weights_the_gradient() -> None:
    # The gradient is sum(q) p - q, so the optimum is q / sum(q).
    logits = draw(1, C, seed=9).requires_grad_()
    q = torch.tensor([[0.9, 0.3, 0.2, 0.02]], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(losses.soft_cross_entropy(logits, q), logits)
    torch.testing.assert_close(gradient, q.sum() * logits.softmax(-1) - q)


def test_margin_logits_match_their_formula() -> None:
    actual = losses.margin_logits(IMAGE, TEXT, LABELS, 20.0, 0.3)
    for b in range(B):
        for k in range(C):
            expected = 20 * (cosine(IMAGE[b], TEXT[k]) - 0.3 * cosine(TEXT[LABELS[b]], TEXT[k]))
            assert actual[b, k].item() == pytest.approx(expected, abs=1e-9)


def test_margin_logits_match_published_numbers() -> None:
    # Unit vectors with cos(I, T_y) = 0.30, cos(I, T_k) = 0.22, cos(T_y, T_k) = 0.85.
    t_y = [1.0, 0.0, 0.0]
    t_k = [0.85, math.sqrt(1 - 0.85**2), 0.0]
    second = (0.22 - 0.85 * 0.30) / t_k[1]
    image = [0.30, second, math.sqrt(1 - 0.30**2 - second**2)]
    logits = losses.margin_logits(
        torch.tensor([image], dtype=torch.float64),
        torch.tensor([t_y, t_k], dtype=torch.float64),
        torch.tensor([0]),
        100.0,
        0.3,
    )
    assert logits[0].tolist() == pytest.approx([0.0, -3.5], abs=1e-9)


def test_margin_of_zero_gives_plain_logits() -> None:
    plain = 5 * torch.nn.functional.normalize(IMAGE, dim=-1) @ torch.nn.functional.normalize(TEXT, dim=-1).T
    torch.testing.assert_close(losses.margin_logits(IMAGE, TEXT, LABELS, 5.0, 0.0), plain)


def test_margin_loss_gradient_matches_finite_differences() -> None:
    targets = losses.released_semantic_targets(losses.class_similarity(TEXT), 0.9, 7)[LABELS]

    def loss(image: Tensor) -> Tensor:
        return losses.soft_cross_entropy(losses.margin_logits(image, TEXT, LABELS, 3.0, 0.3), targets)

    assert torch.autograd.gradcheck(loss, (IMAGE.clone().requires_grad_(),))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_rows_of_targets_have_the_documented_sums(seed: int) -> None:
    s = losses.class_similarity(draw(C, D, seed=seed))
    torch.testing.assert_close(losses.semantic_targets(s, 0.1).sum(-1), torch.ones(C, dtype=torch.float64))
    released = losses.released_semantic_targets(s, 0.9, 35)
    torch.testing.assert_close(released.sum(-1), 1.9 - (35 * s).softmax(-1).diagonal())


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_smoothed_margin_loss_is_invariant_to_order_of_images_and_classes(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    image_order, class_order = (torch.randperm(n, generator=generator) for n in (B, C))

    def loss(image: Tensor, text: Tensor, labels: Tensor) -> Tensor:
        targets = losses.semantic_targets(losses.class_similarity(text), 0.1)[labels]
        return losses.soft_cross_entropy(losses.margin_logits(image, text, labels, 4.0, 0.3), targets)

    labels = class_order.argsort()[LABELS][image_order]
    permuted = loss(IMAGE[image_order], TEXT[class_order], labels)
    torch.testing.assert_close(loss(IMAGE, TEXT, LABELS), permuted)


@pytest.mark.parametrize("heat_map", [VLCS, PACS])
def test_paper_targets_are_almost_those_of_uniform_smoothing(heat_map: list[list[float]]) -> None:
    """Cosines between class prompts are at least 0.72, and the paper's softmax has temperature 1."""
    similarity = cosines_of(heat_map)  # [C, C]
    uniform = losses.uniform_targets(len(similarity), 0.1)

    def distance(targets: Tensor) -> float:
        return float((targets - uniform).abs().sum(dim=1).max() / 2)  # total variation

    assert similarity.min() > 0.72
    assert 0.0033 < distance(losses.semantic_targets(similarity, 0.1)) < 0.00345
    released = losses.released_semantic_targets(similarity, 0.9, 35.0)
    assert 0.075 < distance(released / released.sum(dim=1, keepdim=True)) < 0.08


@given(st.integers(2, 30), st.integers(0, 2**16))
@settings(max_examples=50, deadline=None)
def test_bound_on_the_distance_to_uniform_smoothing_holds(classes: int, seed: int) -> None:
    """The total variation of a softmax of values in [a, 1] from uniform is at most tanh((1 - a) / 4)."""
    generator = torch.Generator().manual_seed(seed)
    similarity = 0.72 + 0.28 * torch.rand(classes, classes, generator=generator).round()  # the two extremes
    similarity.fill_diagonal_(1.0)
    paper = losses.semantic_targets(similarity, 0.1)
    uniform = losses.uniform_targets(classes, 0.1, paper.device)
    assert float((paper - uniform).abs().sum(dim=1).max() / 2) < 0.1 * math.tanh(0.28 / 4) + 1e-6 < 0.007
