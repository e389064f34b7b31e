"""Weight averages compared with the sums that define them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clipalign.core.config import AverageOptions
from clipalign.core.errors import UserError
from clipalign.engine.averaging import EMA, BetaMovingAverage, GaussianAverage, make_average
from clipalign.engine.weight_average import WeightAverage


def walk(steps: int, seed: int = 0) -> list[list[torch.Tensor]]:
    """Weights of two tensors at steps 0 ... steps."""
    generator = torch.Generator().manual_seed(seed)
    path = [[torch.randn(3, 2, generator=generator), torch.randn(4, generator=generator)]]
    for _ in range(steps):
        path.append([p + 0.1 * torch.randn(p.shape, generator=generator) for p in path[-1]])
    return path


def follow(average: WeightAverage, path: list[list[torch.Tensor]], first: int = 1) -> None:
    for step in range(first, len(path)):
        for parameter, value in zip(average.parameters, path[step], strict=True):
            parameter.copy_(value)
        average.update(step)


def beta_density(x: float, beta: float) -> float:
    constant = math.gamma(2 * beta) / math.gamma(beta) ** 2
    return constant * x ** (beta - 1) * (1 - x) ** (beta - 1)


@settings(max_examples=25, deadline=None)
@given(beta=st.floats(0.05, 3), steps=st.integers(1, 40))
def test_beta_moving_average_matches_the_weighted_sum(beta: float, steps: int) -> None:
    path = walk(steps)
    average = BetaMovingAverage([p.clone() for p in path[0]], steps, beta)
    follow(average, path)
    weights = [beta_density((t + 0.5) / (steps + 1), beta) for t in range(steps + 1)]
    for i, got in enumerate(average.average):
        literal = sum(w * p[i].double() for w, p in zip(weights, path, strict=True)) / sum(weights)
        torch.testing.assert_close(got.double(), literal, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize(("beta", "share"), [(0.5, 0.0064), (0.1, 0.062)])
def test_beta_moving_average_keeps_the_published_share_of_initial_weights(beta: float, share: float) -> None:
    # Initial weights of 1 and later weights of 0: the average is the share of the initial weights.
    parameter = torch.ones(1)
    average = BetaMovingAverage([parameter], 5000, beta)
    parameter.zero_()
    for step in range(1, 5001):
        average.update(step)
    assert average.average[0].item() == pytest.approx(share, rel=0.02)


@pytest.mark.parametrize(("beta", "share"), [(0.5, 0.06), (0.1, 0.22)])
def test_beta_moving_average_share_of_the_last_hundredth_of_steps(beta: float, share: float) -> None:
    parameter = torch.zeros(1)
    average = BetaMovingAverage([parameter], 5000, beta)
    for step in range(1, 5001):
        parameter.fill_(float(step > 4950))
        average.update(step)
    assert average.average[0].item() == pytest.approx(share, abs=0.005)


def test_ema_matches_its_recursion() -> None:
    path = walk(20)
    average = EMA([p.clone() for p in path[0]], decay=0.9)
    follow(average, path)
    for i, got in enumerate(average.average):
        literal = path[0][i].double()
        for weights in path[1:]:
            literal = 0.9 * literal + 0.1 * weights[i].double()
        torch.testing.assert_close(got.double(), literal, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", ["ema", "bma"])
def test_update_every_second_step_weights_both_steps(kind: str) -> None:
    # If weights change every second step only, updating every second step gives the same average.
    path = walk(10)
    slow = [path[(t + 1) // 2] for t in range(11)]
    options = AverageOptions(ema_decay=0.8)
    every, second = (make_average(kind, [p.clone() for p in slow[0]], 10, options) for _ in range(2))
    follow(every, slow)
    for step in range(2, 11, 2):
        for parameter, value in zip(second.parameters, slow[step], strict=True):
            parameter.copy_(value)
        second.update(step)
    for a, b in zip(every.average, second.average, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", ["none", "ema", "bma"])
def test_resumed_average_equals_uninterrupted_average_bit_for_bit(kind: str) -> None:
    path = walk(12)
    whole = make_average(kind, [p.clone() for p in path[0]], 12)
    follow(whole, path)
    first = make_average(kind, [p.clone() for p in path[0]], 12)
    follow(first, path[:6])
    resumed = make_average(kind, [p.clone() for p in path[5]], 12)
    resumed.load_state_dict(first.state_dict())
    follow(resumed, path, first=6)
    assert resumed.step == whole.step == 12
    for a, b in zip(whole.average, resumed.average, strict=True):
        assert torch.equal(a, b)


def test_applied_swaps_and_restores_even_after_an_error() -> None:
    parameter = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    average = EMA([parameter], decay=0.5)
    with torch.no_grad():
        parameter.copy_(torch.tensor([3.0, 4.0]))
    average.update(1)
    with pytest.raises(RuntimeError, match="inside"), average.applied():
        assert parameter.tolist() == [2.0, 3.0]
        raise RuntimeError("inside")
    assert parameter.tolist() == [3.0, 4.0]
    other = [torch.zeros(2, dtype=torch.float16)]
    average.copy_to(other)
    assert other[0].tolist() == [2.0, 3.0] and other[0].dtype == torch.float16


def test_half_precision_weights_are_averaged_in_float32() -> None:
    parameter = torch.full((1,), 1.0, dtype=torch.float16)
    average = EMA([parameter], decay=0.999)
    parameter.fill_(1.0009765625)  # the next float16 value; a float16 average would lose 0.1 % of the gap
    average.update(1)
    assert average.average[0].dtype == torch.float32
    assert average.average[0].item() == pytest.approx(1 + 0.0009765625e-3, abs=1e-7)


def test_invalid_settings_raise() -> None:
    weights = [torch.zeros(1)]
    for kind, options in [("mean", {}), ("ema", {"ema_decay": 1.0}), ("bma", {"bma_beta": 0.0})]:
        with pytest.raises(UserError):
            make_average(kind, weights, 10, AverageOptions(**options))
    average = make_average("bma", weights, 2)
    average.update(1)
    with pytest.raises(ValueError, match="step 1 after step 1"):
        average.update(1)
    with pytest.raises(ValueError, match="over 2"):
        average.update(3)
    with pytest.raises(UserError, match="--average"):
        average.load_state_dict({"step": 1, "average": []})


@pytest.mark.parametrize(("steps", "parts"), [(40, 20), (7, 20), (45, 10), (1, 20)])
def test_gaussian_average_matches_the_weighted_sum_over_the_parts(steps: int, parts: int) -> None:
    path = walk(steps)
    average = GaussianAverage([p.clone() for p in path[0]], steps, 0.75, 0.05, parts)
    follow(average, path)
    parts = min(parts, steps)
    ends = [round(e * steps / parts) for e in range(1, parts + 1)]
    weights = [math.exp(-((e / parts - 0.75) ** 2) / (2 * 0.05**2)) for e in range(1, parts + 1)]
    for i, got in enumerate(average.average):
        literal = sum(w * path[t][i].double() for w, t in zip(weights, ends, strict=True)) / sum(weights)
        torch.testing.assert_close(got.double(), literal, atol=2e-6, rtol=1e-5)


def test_gaussian_average_centred_after_the_run_equals_the_last_weights() -> None:
    path = walk(20)
    average = GaussianAverage([p.clone() for p in path[0]], 20, mean=9.0, std=0.01)
    follow(average, path)
    torch.testing.assert_close(average.average[0], path[20][0])
