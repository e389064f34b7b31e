from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from clipalign.backbone import Backbone
from clipalign.core.config import TrainConfig
from clipalign.core.parsing import make_config
from clipalign.data.sources.folder import ImageFolder
from clipalign.methods import get_method
from clipalign.protocols import build_episode
from tests.helpers.methods import ready
from tests.helpers.training import fit_quietly


def test_swad_is_erm_with_another_average() -> None:
    swad, erm = get_method("swad"), get_method("erm")
    assert swad.average == "swad" and issubclass(swad, erm) and swad.Config is erm.Config


@pytest.mark.parametrize("name", ["swad", "erm"])
def test_run_averages_the_weights_of_the_valley(
    name: str, tiny: Backbone, squares: ImageFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    episode = build_episode("domain-shift", squares, "grey", 0)
    method, path = ready(name, tiny, episode), []

    def record(self: Any, step: int) -> None:
        path.append(torch.cat([p.detach().flatten() for p in self.parameters()]))

    monkeypatch.setattr(type(method), "after_step", record)
    given = {
        "out": tmp_path,
        "average": "swad",
        "steps": 24,
        "batch_size": 6,
        "lr": 3e-3,
        "validate_every": 2,
    }
    config = make_config(TrainConfig, {**given, "swad_ratio": 0.05, "checkpoint_every": 0})
    average, _ = fit_quietly(method, config, episode)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [line["validation_loss"] for line in lines if "validation_loss" in line]
    assert len(losses) == len(path) // 2
    chosen = valley(losses)
    segments = [torch.stack(path[2 * i : 2 * i + 2]).mean(0) for i in chosen]
    actual = torch.cat([tensor.flatten() for tensor in average.average])
    torch.testing.assert_close(actual, torch.stack(segments).mean(0), atol=1e-6, rtol=1e-4)
    assert not torch.equal(actual, path[-1])
    with average.applied():
        assert torch.allclose(torch.cat([p.detach().flatten() for p in method.parameters()]), actual)


def valley(losses: list[float], converge: int = 3, tolerance: int = 6, ratio: float = 0.05) -> list[int]:
    """Return the segments of the valley; see tests/engine/test_swad.py."""
    for k in range(converge - 1, len(losses)):
        if losses[k - converge + 1] == min(losses[k - converge + 1 : k + 1]):
            break
    else:
        return [len(losses) - 1]
    start = k - converge + 1
    threshold = (1 + ratio) * sum(losses[start : k + 1]) / converge
    begin = start
    while begin > max(0, start - tolerance + converge) and losses[begin - 1] <= threshold:
        begin -= 1
    end = max(i for i in range(start, len(losses)) if losses[i] <= threshold)
    return list(range(begin, end + 1))
