"""Attention alignment: equations computed scalar by scalar, published numbers, gradients and invariants."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from clipalign import losses
from tests.losses.reference import (
    GUIDE,
    LABELS,
    PATCHES,
    TEXT,
    B,
    C,
    D,
    M,
    distribution,
    divergence,
    draw,
    equation_4,
)


def test_class_attention_is_mean_over_layers() -> None:
    layers = distribution(4, B, M)
    actual = losses.class_attention(layers)
    for b in range(B):
        for i in range(M):
            expected = sum(float(layers[layer, b, i]) for layer in range(4)) / 4
            assert actual[b, i].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_log_similarity_distribution_matches_equation_4(temperature: float) -> None:
    selected = losses.log_similarity_distribution(PATCHES, TEXT, LABELS, temperature).exp()
    all_classes = losses.log_similarity_distribution(PATCHES, TEXT, None, temperature).exp()
    assert selected.shape == (B, M) and all_classes.shape == (B, C, M)
    for b in range(B):
        expected = equation_4(PATCHES[b], TEXT[LABELS[b]], temperature)
        assert selected[b].tolist() == pytest.approx(expected, abs=1e-12)
        for c in range(C):
            expected = equation_4(PATCHES[b], TEXT[c], temperature)
            assert all_classes[b, c].tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("labels", [torch.tensor([2, 0]), None])
def test_class_mean_is_subtracted_from_the_cosines(labels: Tensor | None) -> None:
    generator = torch.Generator().manual_seed(0)
    patches, text = torch.randn(2, 5, 8, generator=generator), torch.randn(3, 8, generator=generator)
    cosine = torch.einsum(
        "bmd,cd->bcm",
        torch.nn.functional.normalize(patches, dim=-1),
        torch.nn.functional.normalize(text, dim=-1),
    )
    expected = ((cosine - cosine.mean(dim=1, keepdim=True)) / 0.05).log_softmax(dim=-1)  # [B, C, M]
    if labels is not None:
        expected = expected[torch.arange(2), labels]
    actual = losses.log_similarity_distribution(patches, text, labels, 0.05, subtract_class_mean=True)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("direction", ["paper", "released"])
def test_attention_alignment_matches_first_term_of_equation_6(direction: losses.Direction) -> None:
    attention = distribution(B, M, seed=5)
    log_guide = losses.log_similarity_distribution(GUIDE, TEXT, LABELS, 0.1)
    expected = 0.0
    for b in range(B):
        a, g = attention[b].tolist(), equation_4(GUIDE[b], TEXT[LABELS[b]], 0.1)
        expected += (divergence(a, g) if direction == "paper" else divergence(g, a)) / B
    actual = losses.attention_alignment(attention, log_guide, direction)
    assert actual.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("direction", ["paper", "released"])
@pytest.mark.parametrize("classes", ["selected", "all"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_similarity_alignment_matches_second_term_of_equation_6(
    direction: losses.Direction, classes: str, reduction: str
) -> None:
    labels = LABELS if classes == "selected" else None
    log_g = losses.log_similarity_distribution(PATCHES, TEXT, labels, 0.1)
    log_guide = losses.log_similarity_distribution(GUIDE, TEXT, labels, 0.1)
    expected = 0.0
    for b in range(B):
        chosen = [int(LABELS[b])] if labels is not None else list(range(C))
        for c in chosen:
            g, guide = equation_4(PATCHES[b], TEXT[c], 0.1), equation_4(GUIDE[b], TEXT[c], 0.1)
            term = divergence(g, guide) if direction == "paper" else divergence(guide, g)
            expected += term / B / (len(chosen) if reduction == "mean" else 1)
    actual = losses.similarity_alignment(log_g, log_guide, direction, reduction)  # type: ignore[arg-type]
    assert actual.item() == pytest.approx(expected, rel=1e-9)


def test_both_directions_match_published_numbers() -> None:
    a, g = torch.tensor([[0.7, 0.2, 0.1]]), torch.tensor([[0.4, 0.4, 0.2]])
    assert losses.attention_alignment(a, g.log(), "paper").item() == pytest.approx(0.1838, abs=5e-5)
    assert losses.attention_alignment(a, g.log(), "released").item() == pytest.approx(0.1920, abs=5e-5)
    assert losses.similarity_alignment(a.log(), g.log(), "paper").item() == pytest.approx(0.1838, abs=5e-5)
    assert losses.similarity_alignment(a.log(), g.log(), "released").item() == pytest.approx(0.1920, abs=5e-5)


def test_attention_alignment_stays_finite_when_attention_underflows() -> None:
    attention = torch.tensor([[1.0, 0.0, 0.0]], requires_grad=True)
    log_guide = torch.tensor([[-90.0, -0.7, -0.7]]).log_softmax(dim=-1)
    for direction in ("paper", "released"):
        value = losses.attention_alignment(attention, log_guide, direction)  # type: ignore[arg-type]
        (gradient,) = torch.autograd.grad(value, attention)
        assert value.isfinite() and gradient.isfinite().all()


def test_entropy_and_kl_to_uniform_match_their_definitions() -> None:
    p = distribution(B, M, seed=11)
    for b in range(B):
        expected = -sum(v * math.log(v) for v in p[b].tolist())
        assert losses.entropy(p.log())[b].item() == pytest.approx(expected)
        expected = divergence(p[b].tolist(), [1 / M] * M)
        assert losses.kl_to_uniform(p.log())[b].item() == pytest.approx(expected)
    one_hot = torch.tensor([1.0, 0.0, 0.0, 0.0]).log()
    assert losses.entropy(one_hot).item() == 0
    assert losses.kl_to_uniform(one_hot).item() == pytest.approx(math.log(4))
    assert losses.kl_to_uniform(torch.zeros(4).log_softmax(-1)).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("direction", ["paper", "released"])
def test_alignment_gradients_match_finite_differences(direction: losses.Direction) -> None:
    labels = LABELS[:2]

    def alignment(patches: Tensor, guide: Tensor, scores: Tensor) -> Tensor:
        log_g = losses.log_similarity_distribution(patches, TEXT, None, 0.3)
        log_guide = losses.log_similarity_distribution(guide, TEXT, labels, 0.3)
        log_guides = losses.log_similarity_distribution(guide, TEXT, None, 0.3)
        attention_term = losses.attention_alignment(scores.softmax(-1), log_guide, direction)
        return attention_term + losses.similarity_alignment(log_g, log_guides, direction)

    patches, guide = PATCHES[:2].clone().requires_grad_(), GUIDE[:2].clone().requires_grad_()
    assert torch.autograd.gradcheck(alignment, (patches, guide, draw(2, M, seed=12).requires_grad_()))


def test_log_similarity_distribution_is_computed_in_float32_under_autocast() -> None:
    patches, text = PATCHES.float(), TEXT.float()
    exact = losses.log_similarity_distribution(patches, text, LABELS, 0.01)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast = losses.log_similarity_distribution(patches, text, LABELS, 0.01)
    assert autocast.dtype == torch.float32 and torch.equal(autocast, exact)
    half = losses.log_similarity_distribution(patches.bfloat16(), text, LABELS, temperature=0.01)
    assert half.dtype == torch.float32
    torch.testing.assert_close(
        half, losses.log_similarity_distribution(patches.bfloat16().float(), text, LABELS, 0.01)
    )


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), spread=st.floats(0.01, 30), temperature=st.floats(0.01, 1))
def test_distributions_sum_to_one_and_divergences_are_not_negative(
    seed: int, spread: float, temperature: float
) -> None:
    p, q = (spread * draw(B, M, seed=seed + i) for i in (0, 1))
    p, q = p.log_softmax(-1), q.log_softmax(-1)
    assert (losses.kl(p, q) >= -1e-12).all() and losses.kl(p, p).abs().max() < 1e-12
    assert (losses.kl_to_uniform(p) >= -1e-9).all() and (losses.entropy(p) >= -1e-12).all()
    patches, text = draw(B, M, D, seed=seed), draw(C, D, seed=seed + 7)
    g = losses.log_similarity_distribution(patches, text, None, temperature).exp()
    torch.testing.assert_close(g.sum(-1), torch.ones(B, C, dtype=torch.float64))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_alignment_is_invariant_to_order_of_patches_images_and_classes(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    patch_order, image_order, class_order = (torch.randperm(n, generator=generator) for n in (M, B, C))
    attention = distribution(B, M, seed=seed)

    def terms(
        attention: Tensor, patches: Tensor, guide: Tensor, text: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        log_guide = losses.log_similarity_distribution(guide, text, labels, 0.1)
        log_g, log_guides = (losses.log_similarity_distribution(x, text, None, 0.1) for x in (patches, guide))
        return (
            losses.attention_alignment(attention, log_guide),
            losses.similarity_alignment(log_g, log_guides),
        )

    permuted = terms(
        attention[image_order][:, patch_order],
        PATCHES[image_order][:, patch_order],
        GUIDE[image_order][:, patch_order],
        TEXT[class_order],
        class_order.argsort()[LABELS][image_order],
    )
    torch.testing.assert_close(terms(attention, PATCHES, GUIDE, TEXT, LABELS), permuted)
    log_g = losses.log_similarity_distribution(PATCHES, TEXT, LABELS, 0.1)
    permuted_log_g = losses.log_similarity_distribution(PATCHES[:, patch_order], TEXT, LABELS, 0.1)
    torch.testing.assert_close(permuted_log_g, log_g[:, patch_order])
