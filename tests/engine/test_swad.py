"""SWAD against its rule spelt out on whole loss curves."""

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
    """Segments (from 0) in the average, and number of measurements made, from the whole curve at once."""
    for k in range(converge - 1, len(losses)):
        window = losses[k - converge + 1 : k + 1]
        if window[0] == min(window):
            break
    else:
        return [len(losses) - 1], len(losses)
    start, threshold = k - converge + 1, (1 + ratio) * sum(window) / converge
    candidates = [
        b
        for b in range(max(0, start - max(0, tolerance - converge)), start + 1)
        if all(loss <= threshold for loss in losses[b : start + 1])
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
    """Train along `path`, measuring every few steps; returns the number of measurements."""
    for i in range(first, len(losses)):
        for step in range(i * every + 1, (i + 1) * every + 1):
            average.parameters[0].copy_(path[step - 1])
            average.update(step)
        average.observe(losses[i])
        if average.over:
            return i + 1
    return len(losses)


CURVES = st.lists(st.integers(1, 30).map(lambda i: i / 10), min_size=1, max_size=30)


@settings(max_examples=300, deadline=None)
@given(
    losses=CURVES, converge=st.integers(1, 4), extra=st.integers(0, 4), ratio=st.sampled_from([0.0, 0.3, 1])
)
def test_the_average_is_that_of_the_rule(
    losses: list[float], converge: int, extra: int, ratio: float
) -> None:
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


def test_a_valley_by_hand() -> None:
    # Found at the sixth value: 1.0 <= 1.1, 1.05; threshold 1.3 * 1.05 = 1.365. Backwards: 1.2 is in, 2.0 not.
    # The last value below the threshold is the eighth; six above it follow, and stop the run at the 14th.
    assert literal(VALLEY, 3, 6, 0.3) == ([2, 3, 4, 5, 6, 7], 14)
    average = ValleyAverage([torch.zeros(1)])
    assert follow(average, VALLEY, torch.arange(16.0)[:, None], 1) == 14
    average.close()
    assert average.average[0].item() == pytest.approx(sum(range(2, 8)) / 6)


def test_a_run_without_valley_gives_its_last_segment() -> None:
    average = ValleyAverage([torch.zeros(1)])
    follow(average, [3.0, 2.0, 1.0, 0.5], torch.arange(8.0)[:, None], 2)
    average.close()
    assert average.average[0].item() == 6.5 and not average.over


@pytest.mark.parametrize("stop", [1, 4, 7, 11])
def test_resume_goes_on_bit_for_bit(stop: int, tmp_path: Path) -> None:
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
    assert second.over and torch.equal(whole.average[0], second.average[0])


def test_there_is_no_average_to_apply_before_the_end() -> None:
    # The valley detector wants the loss of the weights themselves.
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
