"""The example of docs/extending.md, found the way an installed package would be."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch

from clipalign import methods
from clipalign.backbone import Backbone, preprocess_for
from clipalign.core.errors import UserError
from clipalign.data.batches import TrainBatches
from clipalign.data.sources.folder import ImageFolder
from clipalign.protocols import build_episode
from clipalign.runs.options import train_options

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "l2_sp.py"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The example as an entry point, and nothing of it afterwards."""
    methods.list_methods()  # the package's own are there first
    text = (ROOT / "docs" / "extending.md").read_text()
    group, name, value = re.search(r'entry-points\."(.+?)"\]\n(\S+) = "(\S+)"', text).groups()  # type: ignore[union-attr]
    point = EntryPoint(name, value, group)
    monkeypatch.syspath_prepend(EXAMPLE.parent)
    monkeypatch.delitem(sys.modules, value, raising=False)
    monkeypatch.setattr(methods, "entry_points", lambda group: [point] if group == point.group else [])
    monkeypatch.setattr(methods, "_registry", dict(methods._registry))
    methods._import_all.cache_clear()
    yield
    methods._import_all.cache_clear()


def test_it_is_short() -> None:
    assert len(EXAMPLE.read_text().splitlines()) < 60


def test_it_is_found_with_its_options(installed: None) -> None:
    assert "l2-sp" in methods.list_methods()
    options = train_options(
        ["--method", "l2-sp", "--pull", "0.5", "--out", "x", "--backbone", "ViT-B-16:random"]
    )
    optimiser = options.config.optimiser
    assert options.hyper.pull == 0.5 and optimiser.lr == 5e-6 and optimiser.weight_decay == 0
    with pytest.raises(UserError, match="--pull"):
        train_options(["--method", "l2-sp", "--pull", "-1", "--out", "x"])
    with pytest.raises(UserError, match="--pull is an option of --method l2-sp"):
        train_options(["--method", "erm", "--pull", "1", "--out", "x"])


def test_it_trains(installed: None, tiny: Backbone, squares: ImageFolder) -> None:
    cls: Any = methods.get_method("l2-sp")
    episode = build_episode("domain-shift", squares, "grey", 0)
    moved = []
    for pull in (0.0, 50.0):
        method = cls(cls.Config(pull=pull))
        method.setup(tiny, episode, squares.templates)
        before = torch.cat([p.detach().flatten() for p in method.parameters()])
        optimizer = torch.optim.SGD(method.parameters(), lr=1e-3)
        for step in range(3):
            optimizer.zero_grad()
            batch = TrainBatches(episode, 6, 0, preprocess_for(tiny))[step]
            terms = method.loss(batch)
            (terms["loss_ce"] + terms["loss_pull"]).backward()
            optimizer.step()
        after = torch.cat([p.detach().flatten() for p in method.parameters()])
        moved.append(float((after - before).norm()))
        for p, start in zip(method.parameters(), method.start_weights, strict=True):
            p.data.copy_(start)
    assert 0 < moved[1] < moved[0]


def test_it_is_not_there_without_its_entry_point() -> None:
    assert "l2-sp" not in methods.list_methods()
