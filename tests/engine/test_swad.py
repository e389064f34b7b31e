"""SWAD compared with its rule applied to complete loss curves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clipalign.core.checkpoint import load_state, save_state
from clipalign.core.errors import UserError
from clipalign.engine.averaging import make_average
from clipalign.engine.swad import ValleyAverage


def literal(losses: list[float], converge: int, tolerance: int, ratio: float) -> tuple[list[int], int]:
    """Return the segments of the average, counted from 0, and the number of validations until training stops."""
    for k in range(converge - 1, len(losses)):
        window = losses[k - converge + 1 : k + 1]
        if window[0] == min(window):
            break
    else:
        return [len(losses) - 1], len(losses)
    start, threshold = k - converge + 1, (1 + ratio) * sum(window) / converge
    earliest = max(0, start - max(0, tolerance - converge))
    # `start` belongs to the valley even if rounding puts the mean of equal losses below them.
    candidates = [start] + [
        b for b in range(earliest, start) if all(loss <= threshold for loss in losses[b : start + 1])
    ]
    end, seen = start, len(losses)
    for i in range(start + 1, len(losses)):
        if all(loss > threshold for loss in losses[i - tolerance + 1 : i + 1]) and i - tolerance >= start:
            seen = max(i, k) + 1
            break
        if losses[i] <= threshold:
            end = i
    return list(range(min(candidates), end + 1)), seen


def follow(
    average: ValleyAverage, losses: list[float], path: torch.Tensor, every: int, first: int = 0
) -> int:
    """Train along `path` with a validation after every few steps; return the number of validations."""
    for i in range(first, len(losses)):
        for step in range(i * every + 1, (i + 1) * every + 1):
            average.parameters[0].copy_(path[step - 1])
            average.update(step)
        average.observe(losses[i])
        if average.finished:
            return i + 1
    return len(losses)


CURVES = st.lists(st.integers(1, 30).map(lambda i: i / 10), min_size=1, max_size=30)


@settings(max_examples=300, deadline=None)
@given(
    losses=CURVES, converge=st.integers(1, 4), extra=st.integers(0, 4), ratio=st.sampled_from([0.0, 0.3, 1])
)
def test_average_matches_the_rule(losses: list[float], converge: int, extra: int, ratio: float) -> None:
    tolerance, every = converge + extra, 2
    path = torch.randn(len(losses) * every, 3, generator=torch.Generator().manual_seed(len(losses)))
    average = ValleyAverage([torch.zeros(3)], converge, tolerance, ratio)
    seen = follow(average, losses, path, every)
    average.close()
    chosen, measured = literal(losses, converge, tolerance, ratio)
    assert seen == measured
    wanted = torch.stack([path[i * every : (i + 1) * every].mean(0) for i in chosen]).mean(0)
    torch.testing.assert_close(average.average[0], wanted, atol=1e-6, rtol=1e-5)


#        falls          valley                above: six in a row
VALLEY = [3.0, 2.0, 1.2, 1.0, 1.1, 1.05, 1.3, 1.0, 1.9, 2.0, 2.0, 2.1, 2.2, 2.3, 1.0, 1.0]


def test_valley_computed_by_hand() -> None:
    # Detected at the sixth value, 1.0 <= 1.1, 1.05; threshold 1.3 * 1.05 = 1.365. Going back, 1.2 is below, 2.0 is not.
    # The last value below the threshold is the eighth; the next six are above it and stop training at the 14th.
    assert literal(VALLEY, 3, 6, 0.3) == ([2, 3, 4, 5, 6, 7], 14)
    average = ValleyAverage([torch.zeros(1)])
    assert follow(average, VALLEY, torch.arange(16.0)[:, None], 1) == 14
    average.close()
    assert average.average[0].item() == pytest.approx(sum(range(2, 8)) / 6)


def test_run_without_valley_averages_its_last_segment() -> None:
    average = ValleyAverage([torch.zeros(1)])
    follow(average, [3.0, 2.0, 1.0, 0.5], torch.arange(8.0)[:, None], 2)
    average.close()
    assert average.average[0].item() == 6.5 and not average.finished


@pytest.mark.parametrize("stop", [1, 4, 7, 11])
def test_resumed_average_equals_uninterrupted_average_bit_for_bit(stop: int, tmp_path: Path) -> None:
    path = torch.randn(32, 3, generator=torch.Generator().manual_seed(0))
    whole, first, second = (make_average("swad", [torch.zeros(3)], 32) for _ in range(3))
    assert isinstance(whole, ValleyAverage) and isinstance(first, ValleyAverage)
    follow(whole, VALLEY, path, 2)
    follow(first, VALLEY[:stop], path, 2)
    first.parameters[0].copy_(path[2 * stop])
    first.update(2 * stop + 1)  # in the middle of a segment
    save_state(tmp_path / "state.safetensors", first.state_dict())
    assert isinstance(second, ValleyAverage)
    second.load_state_dict(load_state(tmp_path / "state.safetensors"))
    second.parameters[0].copy_(path[2 * stop + 1])
    second.update(2 * stop + 2)
    second.observe(VALLEY[stop])
    follow(second, VALLEY, path, 2, first=stop + 1)
    for average in (whole, second):
        average.close()
    assert second.finished and torch.equal(whole.average[0], second.average[0])


def test_average_is_empty_before_close() -> None:
    # The valley is detected on the validation loss of the weights, not of an average.
    parameter = torch.zeros(1)
    average = ValleyAverage([parameter])
    parameter.fill_(2.0)
    average.update(1)
    with average.applied():
        assert parameter.item() == 2
    with pytest.raises(ValueError, match="step 1 after step 1"):
        average.update(1)
    with pytest.raises(UserError, match="--average"):
        average.load_state_dict({"step": 1, "average": []})
