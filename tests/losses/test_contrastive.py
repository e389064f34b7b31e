"""The modular loss in two products, against the literal form that builds I_i (.) m_j for every pair."""

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


def drawn(rows: int, width: int, seed: int = 0, kind: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """Raw images, texts before normalisation and mask logits, as leaves."""
    generator = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(rows, width, generator=generator, dtype=kind) for _ in range(3)]
    tensors[0] *= 7
    return tuple(tensor.requires_grad_() for tensor in tensors)


def literal(image: Tensor, text: Tensor, masks: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """S[i, j] = s <I_i (.) m_j, t_j> / ||I_i (.) m_j||, one pair after the other."""
    score = [
        [scale * (image[i] * masks[j]) @ text[j] / (image[i] * masks[j]).norm() for j in range(len(text))]
        for i in range(len(image))
    ]
    S = torch.stack([torch.stack(row) for row in score])
    n = range(len(S))
    rows = -torch.stack([S[i, i] - S[i].logsumexp(0) for i in n]).mean()
    columns = -torch.stack([S[j, j] - S[:, j].logsumexp(0) for j in n]).mean()
    return rows, columns


def gradients(loss: Tensor, leaves: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, leaves, retain_graph=True)


@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_are_those_of_the_literal_form(kind: str) -> None:
    image, raw, logits = leaves = drawn(7, 11)
    text, mask = F.normalize(raw, dim=-1), KINDS[kind](logits)
    for ours, theirs in zip(
        masked_contrastive_loss(image, text, mask, 30.0), literal(image, text, mask, 30.0), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
        for mine, wanted in zip(gradients(ours, leaves), gradients(theirs, leaves), strict=True):
            assert bool(wanted.any())
            torch.testing.assert_close(mine, wanted, rtol=1e-9, atol=1e-11)


def test_the_default_scale_is_the_published_100_and_may_be_a_tensor() -> None:
    image, raw, logits = drawn(5, 6)
    text, mask = F.normalize(raw, dim=-1), hard_mask(logits)
    found = masked_contrastive_loss(image, text, mask)
    torch.testing.assert_close(found, literal(image, text, mask, 100.0))
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    sum(masked_contrastive_loss(image, text, mask, scale)).backward()
    assert scale.grad is not None and scale.grad != 0


@pytest.mark.parametrize("cuts", [(4, 9), (3, 5, 9), (9,)])
@pytest.mark.parametrize("told", [True, False])
def test_shards_against_the_gathered_batch_make_the_loss_of_one_process(
    cuts: tuple[int, ...], told: bool
) -> None:
    image, raw, logits = leaves = drawn(9, 6)
    text, mask = F.normalize(raw, dim=-1), hard_mask(logits)
    whole = masked_contrastive_loss(image, text, mask, 20.0)
    mean: list[Tensor] = [torch.zeros((), dtype=torch.float64)] * 2
    for start, stop in zip((0, *cuts[:-1]), cuts, strict=True):
        part = slice(start, stop)
        found = masked_contrastive_loss(
            image[part], text[part], mask[part], 20.0, image, text, mask, first=start if told else None
        )
        mean = [total + (stop - start) / 9 * value for total, value in zip(mean, found, strict=True)]
    for one, many in zip(whole, mean, strict=True):
        torch.testing.assert_close(many, one, rtol=1e-12, atol=1e-12)
        for mine, wanted in zip(gradients(many, leaves), gradients(one, leaves), strict=True):
            torch.testing.assert_close(mine, wanted, rtol=1e-9, atol=1e-12)


def test_the_place_is_found_although_captions_repeat() -> None:
    image, raw, logits = (tensor.detach() for tensor in drawn(8, 5))
    image[1], raw[1], logits[1] = image[4], raw[4], logits[4]  # the first row of the block stands twice
    text, mask = F.normalize(raw, dim=-1), hard_mask(logits)
    part = slice(4, 7)
    args = (image[part], text[part], mask[part], 10.0, image, text, mask)
    assert masked_contrastive_loss(*args) == masked_contrastive_loss(*args, first=4)


def test_a_mask_of_zeros_scores_zero_and_gives_no_gradient() -> None:
    image, raw, logits = drawn(4, 5, kind=torch.float32)
    with torch.no_grad():
        logits[2] = -9.0
    text, mask = F.normalize(raw, dim=-1), hard_mask(logits)
    rows, columns = masked_contrastive_loss(image, text, mask)
    others = [0, 1, 3]
    S = 100 * torch.stack([F.normalize(image * mask[j], dim=-1) @ text[j] for j in range(4)], dim=1)
    torch.testing.assert_close(rows, F.cross_entropy(S, torch.arange(4)))
    torch.testing.assert_close(columns, F.cross_entropy(S.T, torch.arange(4)))
    found = gradients(rows + columns, (image, raw, logits))
    assert all(bool(gradient.isfinite().all()) for gradient in found)
    assert not found[1][2].any() and not found[2][2].any() and found[0][2].any() and found[2][others].any()
    empty = masked_contrastive_loss(image, text, mask * 0)
    assert [value.item() for value in empty] == pytest.approx([torch.tensor(4.0).log().item()] * 2)
    zero = masked_features(image, mask)
    assert not zero[2].any()
    assert bool(torch.autograd.grad(zero.sum(), image)[0].isfinite().all())


def test_with_masks_of_ones_it_is_clips_loss() -> None:
    image, raw, _ = drawn(6, 8, kind=torch.float32)
    text = F.normalize(raw, dim=-1)
    rows, columns = masked_contrastive_loss(image, text, torch.ones(6, 8), 15.0)
    wanted = ClipLoss()(F.normalize(image, dim=-1), text, torch.tensor(15.0))
    torch.testing.assert_close((rows + columns) / 2, wanted)
    plain = contrastive_loss(F.normalize(image, dim=-1), text, 15.0)
    torch.testing.assert_close(torch.stack(plain), torch.stack([rows, columns]))


@settings(max_examples=30, deadline=None)
@given(
    st.integers(2, 6),
    st.integers(1, 7),
    st.floats(1e-3, 1e3),
    st.randoms(use_true_random=False),
    st.sampled_from(list(KINDS)),
)
def test_the_scale_of_images_and_the_order_of_pairs_do_not_matter(
    rows: int, width: int, factor: float, random: object, kind: str
) -> None:
    image, raw, logits = (tensor.detach() for tensor in drawn(rows, width, random.randrange(1000)))
    text, mask = F.normalize(raw, dim=-1), KINDS[kind](logits)
    one = torch.stack(masked_contrastive_loss(image, text, mask))
    factors = factor * torch.rand(rows, 1, dtype=torch.float64).add(0.5)
    torch.testing.assert_close(torch.stack(masked_contrastive_loss(image * factors, text, mask)), one)
    order = torch.tensor(random.sample(range(rows), rows))
    again = torch.stack(masked_contrastive_loss(image[order], text[order], mask[order]))
    torch.testing.assert_close(again, one)
    assert bool((one >= -1e-9).all()) and bool(one.isfinite().all())


def test_half_precision_is_raised_and_float64_stays() -> None:
    image, raw, logits = (tensor.detach() for tensor in drawn(5, 6))
    text, mask = F.normalize(raw, dim=-1), hard_mask(logits)
    half = [tensor.bfloat16() for tensor in (image, text, mask)]
    with torch.autocast("cpu", torch.bfloat16):
        found = masked_contrastive_loss(*half)
    assert found[0].dtype == torch.float32
    torch.testing.assert_close(found, masked_contrastive_loss(*(tensor.float() for tensor in half)))
    assert masked_contrastive_loss(image, text, mask)[0].dtype == torch.float64


def test_what_does_not_fit_is_refused() -> None:
    image, text, mask = (tensor.detach() for tensor in drawn(4, 6))
    with pytest.raises(
        UserError, match=r"masks of shape \(4, 5\) do not fit image_features of shape \(4, 6\)"
    ):
        masked_contrastive_loss(image, text, mask[:, :5])
    with pytest.raises(UserError, match="4 rows of image_features, but 3 of masks"):
        masked_contrastive_loss(image, text, mask[:3])
    with pytest.raises(UserError, match="all or none"):
        masked_contrastive_loss(image, text, mask, all_masks=mask)
    with pytest.raises(UserError, match="not a block of the gathered batch"):
        masked_contrastive_loss(image, text, mask, 1.0, image, text, mask.flip(0))


def reconstructed(features: Tensor, count: int) -> Tensor:
    """Long-CLIP's own steps: covariance, its eigenvectors, there and back."""
    mean = features.mean(0)
    centred = features - mean
    values, vectors = torch.linalg.eigh(centred.T @ centred)
    top = vectors[:, values.argsort(descending=True)[:count]]
    return (centred @ top) @ top.T + mean


@pytest.mark.parametrize("count", [1, 3, 32])
def test_principal_components_are_those_of_the_covariance(count: int) -> None:
    everyone = F.normalize(drawn(10, 6)[0].detach(), dim=-1)
    wanted = reconstructed(everyone, min(count, 6))
    torch.testing.assert_close(project_to_components(everyone, everyone, count), wanted)
    torch.testing.assert_close(project_to_components(everyone[2:5], everyone, count), wanted[2:5])
    if count == 32:
        torch.testing.assert_close(wanted, everyone)


def test_components_of_equal_rows_have_a_gradient() -> None:
    """All singular values are 0: a gradient through singular vectors would be no number."""
    everyone = torch.ones(5, 4, requires_grad=True)
    reduced = project_to_components(everyone, everyone, 2)
    torch.testing.assert_close(reduced, everyone)
    (gradient,) = torch.autograd.grad(reduced.sum(), everyone)
    assert bool(gradient.isfinite().all())
