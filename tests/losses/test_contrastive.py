"""Contrastive losses, compared with open_clip and with a reference that forms I_i * m_j for every pair."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.loss import ClipLoss
from torch import Tensor
from torch.nn import functional as F

from clipalign.core.errors import UserError
from clipalign.losses import contrastive_loss, masked_contrastive_loss, masked_features, project_to_components
from clipalign.methods.shared.masks import hard_mask, soft_mask

KINDS = {"hard": hard_mask, "soft": soft_mask}


def draw(rows: int, width: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """Return images, texts and mask logits, each [rows, width], as leaves; nothing is normalised."""
    generator = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(rows, width, generator=generator, dtype=dtype) for _ in range(3)]
    tensors[0] *= 7
    return tuple(tensor.requires_grad_() for tensor in tensors)


def reference_loss(image: Tensor, text: Tensor, masks: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Return both directions from S[i, j] = s <I_i * m_j, t_j> / ||I_i * m_j||, pair by pair."""
    scores = [
        [scale * (image[i] * masks[j]) @ text[j] / (image[i] * masks[j]).norm() for j in range(len(text))]
        for i in range(len(image))
    ]
    S = torch.stack([torch.stack(row) for row in scores])
    n = range(len(S))
    image_to_text = -torch.stack([S[i, i] - S[i].logsumexp(0) for i in n]).mean()
    text_to_image = -torch.stack([S[j, j] - S[:, j].logsumexp(0) for j in n]).mean()
    return image_to_text, text_to_image


def gradients(loss: Tensor, leaves: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, leaves, retain_graph=True)


@pytest.mark.parametrize("kind", KINDS)
def test_masked_loss_and_gradients_match_reference(kind: str) -> None:
    image, raw, logits = leaves = draw(7, 11)
    text, mask = F.normalize(raw, dim=-1), KINDS[kind](logits)
    actual = masked_contrastive_loss(image, text, mask, 30.0)
    for actual_loss, expected_loss in zip(actual, reference_loss(image, text, mask, 30.0), strict=True):
        torch.testing.assert_close(actual_loss, expected_loss, rtol=1e-12, atol=1e-12)
        pairs = zip(gradients(actual_loss, leaves), gradients(expected_loss, leaves), strict=True)
        for actual_gradient, expected_gradient in pairs:
            assert bool(expected_gradient.any())
            torch.testing.assert_close(actual_gradient, expected_gradient, rtol=1e-9, atol=1e-11)


def test_masked_loss_defaults_to_scale_100_and_takes_a_tensor() -> None:
    image, raw, logits = draw(5, 6)
    text, mask = F.normalize(raw, dim=-1), hard_mask(logits)
    torch.testing.assert_close(
        masked_contrastive_loss(image, text, mask), reference_loss(image, text, mask, 100.0)
    )
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    sum(masked_contrastive_loss(image, text, mask, scale)).backward()
    assert scale.grad is not None and scale.grad != 0


@pytest.mark.parametrize("cuts", [(4, 9), (3, 5, 9), (9,)])
@pytest.mark.parametrize("pass_first", [True, False])
def test_masked_loss_of_shards_averages_to_loss_of_one_process(
    cuts: tuple[int, ...], pass_first: bool
) -> None:
    image, raw, logits = leaves = draw(9, 6)
    text, mask = F.normalize(raw, dim=-1), hard_mask(logits)
    expected = masked_contrastive_loss(image, text, mask, 20.0)
    mean: list[Tensor] = [torch.zeros((), dtype=torch.float64)] * 2
    for start, stop in zip((0, *cuts[:-1]), cuts, strict=True):
        part, first = slice(start, stop), start if pass_first else None
        shard = masked_contrastive_loss(
            image[part], text[part], mask[part], 20.0, image, text, mask, first=first
        )
        mean = [total + (stop - start) / 9 * value for total, value in zip(mean, shard, strict=True)]
    for expected_loss, mean_loss in zip(expected, mean, strict=True):
        torch.testing.assert_close(mean_loss, expected_loss, rtol=1e-12, atol=1e-12)
        pairs = zip(gradients(mean_loss, leaves), gradients(expected_loss, leaves), strict=True)
        for mean_gradient, expected_gradient in pairs:
            torch.testing.assert_close(mean_gradient, expected_gradient, rtol=1e-9, atol=1e-12)


def test_masked_loss_finds_its_rows_when_the_first_one_repeats() -> None:
    image, raw, logits = (tensor.detach() for tensor in draw(8, 5))
    image[1], raw[1], logits[1] = image[4], raw[4], logits[4]  # rows 1 and 4 are equal
    text, mask = F.normalize(raw, dim=-1), hard_mask(logits)
    part = slice(4, 7)
    args = (image[part], text[part], mask[part], 10.0, image, text, mask)
    assert masked_contrastive_loss(*args) == masked_contrastive_loss(*args, first=4)


def test_empty_mask_scores_zero_without_gradient() -> None:
    image, raw, logits = draw(4, 5, dtype=torch.float32)
    with torch.no_grad():
        logits[2] = -9.0
    text, mask = F.normalize(raw, dim=-1), hard_mask(logits)
    image_to_text, text_to_image = masked_contrastive_loss(image, text, mask)
    others = [0, 1, 3]
    S = 100 * torch.stack([F.normalize(image * mask[j], dim=-1) @ text[j] for j in range(4)], dim=1)
    torch.testing.assert_close(image_to_text, F.cross_entropy(S, torch.arange(4)))
    torch.testing.assert_close(text_to_image, F.cross_entropy(S.T, torch.arange(4)))
    of_image, of_raw, of_logits = gradients(image_to_text + text_to_image, (image, raw, logits))
    assert all(bool(gradient.isfinite().all()) for gradient in (of_image, of_raw, of_logits))
    assert not of_raw[2].any() and not of_logits[2].any()
    assert of_image[2].any() and of_logits[others].any()
    all_empty = masked_contrastive_loss(image, text, mask * 0)
    assert [value.item() for value in all_empty] == pytest.approx([torch.tensor(4.0).log().item()] * 2)
    masked = masked_features(image, mask)
    assert not masked[2].any()
    assert bool(torch.autograd.grad(masked.sum(), image)[0].isfinite().all())


def test_masks_of_ones_give_clips_loss() -> None:
    image, raw, _ = draw(6, 8, dtype=torch.float32)
    text = F.normalize(raw, dim=-1)
    masked = masked_contrastive_loss(image, text, torch.ones(6, 8), 15.0)
    expected = ClipLoss()(F.normalize(image, dim=-1), text, torch.tensor(15.0))
    torch.testing.assert_close(sum(masked) / 2, expected)
    plain = contrastive_loss(F.normalize(image, dim=-1), text, 15.0)
    torch.testing.assert_close(torch.stack(plain), torch.stack(masked))


@settings(max_examples=30, deadline=None)
@given(
    st.integers(2, 6),
    st.integers(1, 7),
    st.floats(1e-3, 1e3),
    st.randoms(use_true_random=False),
    st.sampled_from(list(KINDS)),
)
def test_masked_loss_is_invariant_to_image_norms_and_order_of_pairs(
    rows: int, width: int, factor: float, random: object, kind: str
) -> None:
    image, raw, logits = (tensor.detach() for tensor in draw(rows, width, random.randrange(1000)))
    text, mask = F.normalize(raw, dim=-1), KINDS[kind](logits)
    loss = torch.stack(masked_contrastive_loss(image, text, mask))
    factors = factor * torch.rand(rows, 1, dtype=torch.float64).add(0.5)
    torch.testing.assert_close(torch.stack(masked_contrastive_loss(image * factors, text, mask)), loss)
    order = torch.tensor(random.sample(range(rows), rows))
    permuted = torch.stack(masked_contrastive_loss(image[order], text[order], mask[order]))
    torch.testing.assert_close(permuted, loss)
    assert bool((loss >= -1e-9).all()) and bool(loss.isfinite().all())


def test_masked_loss_raises_half_precision_and_keeps_float64() -> None:
    image, raw, logits = (tensor.detach() for tensor in draw(5, 6))
    text, mask = F.normalize(raw, dim=-1), hard_mask(logits)
    half = [tensor.bfloat16() for tensor in (image, text, mask)]
    with torch.autocast("cpu", torch.bfloat16):
        loss = masked_contrastive_loss(*half)
    assert loss[0].dtype == torch.float32
    torch.testing.assert_close(loss, masked_contrastive_loss(*(tensor.float() for tensor in half)))
    assert masked_contrastive_loss(image, text, mask)[0].dtype == torch.float64


def test_masked_loss_refuses_arguments_that_do_not_match() -> None:
    image, text, mask = (tensor.detach() for tensor in draw(4, 6))
    message = r"masks of shape \(4, 5\) do not fit image_features of shape \(4, 6\)"
    with pytest.raises(UserError, match=message):
        masked_contrastive_loss(image, text, mask[:, :5])
    with pytest.raises(UserError, match="4 rows of image_features, but 3 of masks"):
        masked_contrastive_loss(image, text, mask[:3])
    with pytest.raises(UserError, match="all or none"):
        masked_contrastive_loss(image, text, mask, all_masks=mask)
    with pytest.raises(UserError, match="not a block of the gathered batch"):
        masked_contrastive_loss(image, text, mask, 1.0, image, text, mask.flip(0))


def reference_projection(features: Tensor, count: int) -> Tensor:
    """Return Long-CLIP's projection, by eigenvectors of the covariance."""
    mean = features.mean(0)
    centred = features - mean
    values, vectors = torch.linalg.eigh(centred.T @ centred)
    top = vectors[:, values.argsort(descending=True)[:count]]
    return (centred @ top) @ top.T + mean


@pytest.mark.parametrize("count", [1, 3, 32])
def test_project_to_components_matches_eigenvectors_of_covariance(count: int) -> None:
    batch = F.normalize(draw(10, 6)[0].detach(), dim=-1)
    expected = reference_projection(batch, min(count, 6))
    torch.testing.assert_close(project_to_components(batch, batch, count), expected)
    torch.testing.assert_close(project_to_components(batch[2:5], batch, count), expected[2:5])
    if count == 32:
        torch.testing.assert_close(expected, batch)


def test_project_to_components_of_equal_rows_has_finite_gradient() -> None:
    # All singular values are 0: a gradient through singular vectors would be NaN.
    batch = torch.ones(5, 4, requires_grad=True)
    projected = project_to_components(batch, batch, 2)
    torch.testing.assert_close(projected, batch)
    (gradient,) = torch.autograd.grad(projected.sum(), batch)
    assert bool(gradient.isfinite().all())
