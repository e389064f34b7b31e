"""Losses against loops that spell their equations out, published numbers, and what must always hold."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clipalign import losses

B, M, C, D = 3, 5, 4, 6


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def distribution(*shape: int, seed: int = 0) -> Tensor:
    return draw(*shape, seed=seed).softmax(dim=-1)


PATCHES, GUIDE, TEXT, IMAGE = draw(B, M, D), draw(B, M, D, seed=1), draw(C, D, seed=2), draw(B, D, seed=3)
LABELS = torch.tensor([2, 0, 2])


# The equations, one scalar at a time


def cosine(a: Tensor, b: Tensor) -> float:
    dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(float(x) ** 2 for x in a) * sum(float(y) ** 2 for y in b))


def softmax(values: list[float]) -> list[float]:
    total = sum(math.exp(v) for v in values)
    return [math.exp(v) / total for v in values]


def equation_4(patches: Tensor, text: Tensor, temperature: float) -> list[float]:
    return softmax([cosine(patch, text) / temperature for patch in patches])


def divergence(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


# Attention alignment


def test_class_attention_is_the_mean_over_layers() -> None:
    rows = distribution(4, B, M)
    got = losses.class_attention(rows)
    for b in range(B):
        for i in range(M):
            literal = sum(float(rows[layer, b, i]) for layer in range(4)) / 4
            assert got[b, i].item() == pytest.approx(literal, abs=1e-12)


@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_similarity_distribution_is_equation_4(temperature: float) -> None:
    selected = losses.similarity_distribution(PATCHES, TEXT, LABELS, temperature)
    every = losses.similarity_distribution(PATCHES, TEXT, None, temperature)
    assert selected.shape == (B, M) and every.shape == (B, C, M)
    for b in range(B):
        literal = equation_4(PATCHES[b], TEXT[LABELS[b]], temperature)
        assert selected[b].tolist() == pytest.approx(literal, abs=1e-12)
        for c in range(C):
            literal = equation_4(PATCHES[b], TEXT[c], temperature)
            assert every[b, c].tolist() == pytest.approx(literal, abs=1e-12)


@pytest.mark.parametrize("direction", ["paper", "released"])
def test_attention_alignment_is_the_first_term_of_equation_6(direction: losses.Direction) -> None:
    attention = distribution(B, M, seed=5)
    log_guide = losses.log_similarity_distribution(GUIDE, TEXT, LABELS, 0.1)
    literal = 0.0
    for b in range(B):
        a, g = attention[b].tolist(), equation_4(GUIDE[b], TEXT[LABELS[b]], 0.1)
        literal += (divergence(a, g) if direction == "paper" else divergence(g, a)) / B
    assert losses.attention_alignment(attention, log_guide, direction).item() == pytest.approx(
        literal, rel=1e-9
    )


@pytest.mark.parametrize("direction", ["paper", "released"])
@pytest.mark.parametrize("classes", ["selected", "all"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_similarity_alignment_is_the_second_term_of_equation_6(
    direction: losses.Direction, classes: str, reduction: str
) -> None:
    labels = LABELS if classes == "selected" else None
    log_g = losses.log_similarity_distribution(PATCHES, TEXT, labels, 0.1)
    log_guide = losses.log_similarity_distribution(GUIDE, TEXT, labels, 0.1)
    literal = 0.0
    for b in range(B):
        chosen = [int(LABELS[b])] if labels is not None else list(range(C))
        for c in chosen:
            g, guide = equation_4(PATCHES[b], TEXT[c], 0.1), equation_4(GUIDE[b], TEXT[c], 0.1)
            term = divergence(g, guide) if direction == "paper" else divergence(guide, g)
            literal += term / B / (len(chosen) if reduction == "mean" else 1)
    got = losses.similarity_alignment(log_g, log_guide, direction, reduction)  # type: ignore[arg-type]
    assert got.item() == pytest.approx(literal, rel=1e-9)


def test_published_numbers_of_the_two_directions() -> None:
    a, g = torch.tensor([[0.7, 0.2, 0.1]]), torch.tensor([[0.4, 0.4, 0.2]])
    assert losses.attention_alignment(a, g.log(), "paper").item() == pytest.approx(0.1838, abs=5e-5)
    assert losses.attention_alignment(a, g.log(), "released").item() == pytest.approx(0.1920, abs=5e-5)
    assert losses.similarity_alignment(a.log(), g.log(), "paper").item() == pytest.approx(0.1838, abs=5e-5)
    assert losses.similarity_alignment(a.log(), g.log(), "released").item() == pytest.approx(0.1920, abs=5e-5)


def test_attention_that_underflowed_stays_finite_with_its_gradient() -> None:
    attention = torch.tensor([[1.0, 0.0, 0.0]], requires_grad=True)
    log_guide = torch.tensor([[-90.0, -0.7, -0.7]]).log_softmax(dim=-1)
    for direction in ("paper", "released"):
        value = losses.attention_alignment(attention, log_guide, direction)  # type: ignore[arg-type]
        (gradient,) = torch.autograd.grad(value, attention)
        assert value.isfinite() and gradient.isfinite().all()


# Semantic label smoothing

# Heat maps published with the code: row softmax of 35 * cosine for ViT-B/16, two significant digits.
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


def cosines_of(table: list[list[float]]) -> Tensor:
    """S_ij = 1 + ln(D_ij / D_ii) / 35, the two halves averaged."""
    d = torch.tensor(table, dtype=torch.float64)
    s = 1 + (d / d.diagonal().unsqueeze(1)).log() / 35
    return (s + s.T) / 2


@pytest.mark.parametrize("table", [VLCS, PACS], ids=["VLCS", "PACS"])
def test_released_targets_give_the_published_heat_maps_back(table: list[list[float]]) -> None:
    targets = losses.released_semantic_targets(cosines_of(table), 0.9, 35)
    for i, row in enumerate(table):
        assert targets[i, i].item() == 0.9
        for j, value in enumerate(row):
            if i != j:
                assert targets[i, j].item() == pytest.approx(value, rel=0.1)


def test_published_cosines() -> None:
    vlcs, pacs = cosines_of(VLCS), cosines_of(PACS)
    assert vlcs[0, 1].item() == pytest.approx(0.847, abs=0.003)  # bird, car
    assert vlcs[0, 2].item() == pytest.approx(0.796, abs=0.003)  # bird, chair
    assert pacs[0, 6].item() == pytest.approx(0.90, abs=0.003)  # dog, person
    assert pacs[2, 5].item() == pytest.approx(0.72, abs=0.003)  # giraffe, house


DOG = torch.tensor([0.896, 0.867, 0.801, 1.0, 0.901], dtype=torch.float64)  # cosines to dog


def dog_similarity() -> Tensor:
    s = torch.eye(5, dtype=torch.float64)
    s[3] = DOG
    return s


def test_published_targets_of_the_class_dog() -> None:
    released = losses.released_semantic_targets(cosines_of(VLCS), 0.9, 35)[3]
    assert released.tolist() == pytest.approx([0.025, 0.0089, 0.00088, 0.9, 0.029], rel=0.05)
    assert released.sum().item() == pytest.approx(0.964, abs=0.002)
    paper = losses.semantic_targets(dog_similarity(), 0.1)[3]
    soft = [0.2003, 0.1945, 0.1820, 0.2221, 0.2011]
    assert dog_similarity()[3].softmax(0).tolist() == pytest.approx(soft, abs=2e-4)  # cosines of three digits
    assert paper[3].item() == pytest.approx(0.9222, abs=1e-4)
    others = [0.1 * value for i, value in enumerate(soft) if i != 3]
    assert paper[[0, 1, 2, 4]].tolist() == pytest.approx(others, abs=2e-5)
    assert paper.sum().item() == pytest.approx(1)


def test_targets_are_their_equations() -> None:
    s = losses.class_similarity(TEXT)
    for y in range(C):
        literal_s = [cosine(TEXT[y], TEXT[k]) for k in range(C)]
        assert s[y].tolist() == pytest.approx(literal_s, abs=1e-12)
        soft, sharp = softmax(literal_s), softmax([7 * v for v in literal_s])
        for k in range(C):
            one = float(k == y)
            paper = losses.semantic_targets(s, 0.2)[y, k].item()
            assert paper == pytest.approx(0.8 * one + 0.2 * soft[k])
            raw = losses.semantic_targets(s, 0.2, raw=True)[y, k].item()
            assert raw == pytest.approx(0.8 * one + 0.2 * literal_s[k])
            released = losses.released_semantic_targets(s, 0.9, 7)[y, k].item()
            assert released == pytest.approx(0.9 if k == y else sharp[k])
            assert losses.uniform_targets(C, 0.2)[y, k].item() == pytest.approx(0.8 * one + 0.2 / C)


def test_soft_cross_entropy_is_its_sum_and_knows_pytorchs() -> None:
    logits = draw(B, C, seed=7)
    targets = draw(B, C, seed=8).abs()  # not normalised
    literal = 0.0
    for b in range(B):
        p = softmax(logits[b].tolist())
        literal -= sum(float(targets[b, k]) * math.log(p[k]) for k in range(C)) / B
    assert losses.soft_cross_entropy(logits, targets).item() == pytest.approx(literal, rel=1e-12)
    smoothed = losses.soft_cross_entropy(logits, losses.uniform_targets(C, 0.1).double()[LABELS])
    known = torch.nn.functional.cross_entropy(logits, LABELS, label_smoothing=0.1)
    assert smoothed.item() == pytest.approx(known.item(), rel=1e-6)


def test_unnormalised_targets_weigh_their_gradient() -> None:
    # The gradient is (sum of q) p - q, so its optimum is q / sum of q.
    logits = draw(1, C, seed=9).requires_grad_()
    q = torch.tensor([[0.9, 0.3, 0.2, 0.02]], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(losses.soft_cross_entropy(logits, q), logits)
    torch.testing.assert_close(gradient, q.sum() * logits.softmax(-1) - q)


# Margin


def test_margin_logits_are_their_formula() -> None:
    got = losses.margin_logits(IMAGE, TEXT, LABELS, 20.0, 0.3)
    for b in range(B):
        for k in range(C):
            literal = 20 * (cosine(IMAGE[b], TEXT[k]) - 0.3 * cosine(TEXT[LABELS[b]], TEXT[k]))
            assert got[b, k].item() == pytest.approx(literal, abs=1e-9)


def test_published_margin_numbers() -> None:
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


def test_no_margin_is_the_plain_logits() -> None:
    plain = 5 * torch.nn.functional.normalize(IMAGE, dim=-1) @ torch.nn.functional.normalize(TEXT, dim=-1).T
    torch.testing.assert_close(losses.margin_logits(IMAGE, TEXT, LABELS, 5.0, 0.0), plain)


# What is logged


def test_entropy_and_divergence_from_uniform() -> None:
    p = distribution(B, M, seed=11)
    for b in range(B):
        literal = -sum(v * math.log(v) for v in p[b].tolist())
        assert losses.entropy(p.log())[b].item() == pytest.approx(literal)
        assert losses.kl_to_uniform(p.log())[b].item() == pytest.approx(
            divergence(p[b].tolist(), [1 / M] * M)
        )
    one_hot = torch.tensor([1.0, 0.0, 0.0, 0.0]).log()
    assert losses.entropy(one_hot).item() == 0
    assert losses.kl_to_uniform(one_hot).item() == pytest.approx(math.log(4))
    assert losses.kl_to_uniform(torch.zeros(4).log_softmax(-1)).item() == pytest.approx(0, abs=1e-6)


# Gradients and precision


def test_gradients_are_the_derivatives() -> None:
    patches, guide = PATCHES[:2].clone().requires_grad_(), GUIDE[:2].clone().requires_grad_()
    scores = draw(2, M, seed=12).requires_grad_()
    labels = LABELS[:2]

    def alignment(patches: Tensor, guide: Tensor, scores: Tensor, direction: losses.Direction) -> Tensor:
        log_g = losses.log_similarity_distribution(patches, TEXT, None, 0.3)
        log_guide = losses.log_similarity_distribution(guide, TEXT, labels, 0.3)
        every = losses.log_similarity_distribution(guide, TEXT, None, 0.3)
        first = losses.attention_alignment(scores.softmax(-1), log_guide, direction)
        return first + losses.similarity_alignment(log_g, every, direction)

    for direction in ("paper", "released"):
        assert torch.autograd.gradcheck(lambda *x, d=direction: alignment(*x, d), (patches, guide, scores))
    image = IMAGE.clone().requires_grad_()
    targets = losses.released_semantic_targets(losses.class_similarity(TEXT), 0.9, 7)[LABELS]
    assert torch.autograd.gradcheck(
        lambda x: losses.soft_cross_entropy(losses.margin_logits(x, TEXT, LABELS, 3.0, 0.3), targets),
        (image,),
    )


def test_autocast_and_half_precision_features_do_not_reach_the_logarithms() -> None:
    patches, text = PATCHES.float(), TEXT.float()
    exact = losses.log_similarity_distribution(patches, text, LABELS, 0.01)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = losses.log_similarity_distribution(patches, text, LABELS, 0.01)
    assert cast.dtype == torch.float32 and torch.equal(cast, exact)
    half = losses.log_similarity_distribution(patches.bfloat16(), text, LABELS, temperature=0.01)
    assert half.dtype == torch.float32
    torch.testing.assert_close(
        half, losses.log_similarity_distribution(patches.bfloat16().float(), text, LABELS, 0.01)
    )


# What must always hold

seeds = st.integers(0, 10_000)


@settings(max_examples=40, deadline=None)
@given(seed=seeds, spread=st.floats(0.01, 30), temperature=st.floats(0.01, 1))
def test_distributions_sum_to_one_and_divergences_are_not_negative(
    seed: int, spread: float, temperature: float
) -> None:
    p, q = (spread * draw(B, M, seed=seed + i) for i in (0, 1))
    p, q = p.log_softmax(-1), q.log_softmax(-1)
    assert (losses.kl(p, q) >= -1e-12).all() and losses.kl(p, p).abs().max() < 1e-12
    assert (losses.kl_to_uniform(p) >= -1e-9).all() and (losses.entropy(p) >= -1e-12).all()
    patches, text = draw(B, M, D, seed=seed), draw(C, D, seed=seed + 7)
    g = losses.similarity_distribution(patches, text, None, temperature)
    torch.testing.assert_close(g.sum(-1), torch.ones(B, C, dtype=torch.float64))
    s = losses.class_similarity(text)
    torch.testing.assert_close(losses.semantic_targets(s, 0.1).sum(-1), torch.ones(C, dtype=torch.float64))
    released = losses.released_semantic_targets(s, 0.9, 35)
    torch.testing.assert_close(released.sum(-1), 1.9 - (35 * s).softmax(-1).diagonal())


@settings(max_examples=25, deadline=None)
@given(seed=seeds)
def test_order_of_patches_images_and_classes_does_not_matter(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    patch_order, image_order, class_order = (torch.randperm(n, generator=generator) for n in (M, B, C))
    attention = distribution(B, M, seed=seed)
    new_labels = class_order.argsort()[LABELS][image_order]

    def terms(
        attention: Tensor, patches: Tensor, guide: Tensor, text: Tensor, labels: Tensor
    ) -> list[Tensor]:
        log_guide = losses.log_similarity_distribution(guide, text, labels, 0.1)
        all_g, all_guide = (losses.log_similarity_distribution(x, text, None, 0.1) for x in (patches, guide))
        targets = losses.semantic_targets(losses.class_similarity(text), 0.1)[labels]
        logits = losses.margin_logits(guide[:, 0], text, labels, 4.0, 0.3)
        return [
            losses.attention_alignment(attention, log_guide),
            losses.similarity_alignment(all_g, all_guide),
            losses.soft_cross_entropy(logits, targets),
        ]

    before = terms(attention, PATCHES, GUIDE, TEXT, LABELS)[:2]
    after = terms(
        attention[image_order][:, patch_order],
        PATCHES[image_order][:, patch_order],
        GUIDE[image_order][:, patch_order],
        TEXT[class_order],
        new_labels,
    )[:2]
    torch.testing.assert_close(before, after)
    # The smoothed cross-entropy sees one patch as its image, so only images and classes may change places.
    whole = terms(attention, PATCHES, GUIDE, TEXT, LABELS)[2]
    moved = terms(
        attention[image_order], PATCHES[image_order], GUIDE[image_order], TEXT[class_order], new_labels
    )
    torch.testing.assert_close(whole, moved[2])
    g = losses.similarity_distribution(PATCHES, TEXT, LABELS, 0.1)
    torch.testing.assert_close(
        losses.similarity_distribution(PATCHES[:, patch_order], TEXT, LABELS, 0.1), g[:, patch_order]
    )
