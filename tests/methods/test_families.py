"""Every method on a backbone of every family: it trains and classifies, or names the towers that it needs."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from clipalign.backbone import Backbone, load
from clipalign.core.errors import UnseenClasses, UserError
from clipalign.core.types import Episode
from clipalign.data.sources.folder import ImageFolder
from clipalign.methods import Method, all_methods
from clipalign.protocols import build_episode
from tests.helpers.backbones import copied
from tests.helpers.families import write_family
from tests.helpers.methods import TEMPLATES, batch_of, source_validation, total_loss

FAMILIES = ("clipa", "coca", "convnext", "eva02", "hf-text", "siglip")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a function from the name of a family to its tiny backbone."""
    root = tmp_path_factory.mktemp("families")
    return cache(lambda name: load(write_family(name, root / name)))


@pytest.fixture(scope="module")
def episode(squares: ImageFolder) -> Episode:
    return build_episode("in-the-wild", squares, "grey", 0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("cls", all_methods(), ids=lambda cls: cls.name)
def test_method_trains_and_classifies_or_names_what_is_missing(
    loaded: Any, episode: Episode, family: str, cls: type[Method[Any]]
) -> None:
    backbone: Backbone = copied(loaded(family))
    method = cls()
    if set(cls.needs) - backbone.capabilities:
        with pytest.raises(UserError, match=rf"--method {cls.name} needs .* Offered by: "):
            method.setup(backbone, episode, TEMPLATES)
        return
    method.setup(backbone, episode, TEMPLATES)
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    if cls.iterates:
        optimizer = torch.optim.AdamW(method.parameters(), lr=1e-3)
        batch = batch_of(episode, backbone, size=4)
        if cls.learns_from == "captions":
            batch = replace(batch, captions=("a red square. it is number 1.",) * 3 + ("a dog.",))
        method.start(source_validation(episode, backbone))
        loss = total_loss(method.loss(batch))
        assert bool(loss.isfinite())
        loss.backward()
        optimizer.step()
        method.after_step(1)
        after = method.state_dict()
        assert any(not torch.equal(before[name], after[name]) for name in before if name in after)
        assert all(bool(tensor.isfinite().all()) for tensor in after.values())
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = method.classifier(episode.class_names)(images)
        assert logits.shape == (2, len(episode.class_names)) and bool(logits.isfinite().all())
        try:
            assert method.classifier(["a kite", "tea"])(images).shape == (2, 2)
        except UnseenClasses:
            assert cls.name != "zeroshot"
