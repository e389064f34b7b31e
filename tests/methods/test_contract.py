"""What every method promises, whichever it is: a new file in methods/ is tested here without a change."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from clipalign.backbone import Backbone, load, preprocess_for
from clipalign.core.checkpoint import load_weights, save_weights
from clipalign.core.errors import UnseenClasses, UserError
from clipalign.core.types import Batch, Episode
from clipalign.data.batches import TrainBatches
from clipalign.data.sources.folder import ImageFolder
from clipalign.engine.averaging import KINDS
from clipalign.methods import Method, all_methods, get_method, list_methods, register
from clipalign.protocols import build_episode

METHODS = all_methods()
PAIRS = [(method, tower) for method in METHODS for tower in method.towers]
TRAINED = [(method, tower) for method, tower in PAIRS if method.iterates]


def name_of(value: object) -> str:
    return getattr(value, "name", str(value))


@pytest.fixture
def backbone(tiny_spec: str, resnet_spec: str, request: pytest.FixtureRequest) -> Backbone:
    tower = request.getfixturevalue("tower")
    return load(tiny_spec if tower == "vit" else resnet_spec)


@pytest.fixture
def episode(squares: ImageFolder) -> Episode:
    return build_episode("in-the-wild", squares, "grey", 0)


def ready(cls: type[Method], backbone: Backbone, episode: Episode) -> Method:
    torch.manual_seed(0)  # of what a method draws to start from, as in a training run
    method = cls()
    method.setup(backbone, episode, episode.source.templates)
    return method


def batch_of(method: Method, step: int = 0) -> Batch:
    """A training batch; with captions of two sentences where the method learns from them."""
    batch = TrainBatches(method.episode, 6, 0, preprocess_for(method.backbone))[step]
    if method.learns_from == "classes":
        return batch
    names = [method.episode.class_names[label] for label in batch.labels.tolist()]
    pairs = zip(names, batch.rows.tolist(), strict=True)
    return replace(batch, captions=tuple(f"a {name}. it is number {row}." for name, row in pairs))


def descend(method: Method, batch: Batch) -> dict[str, Tensor]:
    terms = method.loss(batch)
    torch.stack([value for name, value in terms.items() if name.startswith("loss")]).sum().backward()
    return terms


def train(method: Method, steps: int) -> dict[str, Tensor]:
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-3)
    for step in range(steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        descend(method, batch_of(method, step))
        optimizer.step()
        method.after_step(step + 1)
    return {name: tensor.clone() for name, tensor in method.state_dict().items()}


@pytest.mark.parametrize("method", METHODS, ids=name_of)
def test_it_says_what_it_is(method: type[Method]) -> None:
    assert method.summary and method.source and method.trains and method.towers
    assert method.average in KINDS
    assert method.Config() is not None


@pytest.mark.parametrize(("cls", "tower"), TRAINED, ids=name_of)
def test_losses_are_finite_scalars_and_one_is_descended(
    cls: type[Method], tower: str, backbone: Backbone, episode: Episode
) -> None:
    method = ready(cls, backbone, episode)
    terms = method.loss(batch_of(method))
    assert any(name.startswith("loss") for name in terms)
    for name, value in terms.items():
        assert value.shape == () and bool(value.isfinite()), name


@pytest.mark.parametrize(("cls", "tower"), TRAINED, ids=name_of)
def test_gradients_reach_exactly_its_parameters(
    cls: type[Method], tower: str, backbone: Backbone, episode: Episode
) -> None:
    method = ready(cls, backbone, episode)
    descend(method, batch_of(method))
    mine = {id(parameter) for parameter in method.parameters()}
    assert any(p.grad is not None and bool(p.grad.any()) for p in method.parameters())
    tensors = [*backbone.named_parameters(), *method.extra.named_parameters()]
    # Not "is other than zero": a bias on attention keys, for one, cannot change a softmax.
    reached = {id(p) for _, p in tensors if p.grad is not None}
    assert mine and reached == mine, [n for n, p in tensors if (id(p) in mine) != (id(p) in reached)]


@pytest.mark.parametrize(("cls", "tower"), TRAINED, ids=name_of)
def test_steps_are_reproducible_and_change_only_what_is_trained(
    cls: type[Method], tower: str, backbone: Backbone, episode: Episode
) -> None:
    before = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    first = train(ready(cls, copy.deepcopy(backbone), episode), 2)
    method = ready(cls, backbone, episode)
    second = train(method, 2)
    assert all(torch.equal(first[name], second[name]) for name in first)
    trained = {name for name, parameter in backbone.model.named_parameters() if parameter.requires_grad}
    changed = {name for name in before if not torch.equal(before[name], second[name])}
    assert changed <= trained


@pytest.mark.parametrize(("cls", "tower"), PAIRS, ids=name_of)
def test_a_saved_method_predicts_the_same_for_classes_it_never_saw(
    cls: type[Method], tower: str, backbone: Backbone, episode: Episode, tmp_path: Path
) -> None:
    fresh = copy.deepcopy(backbone)
    method = ready(cls, backbone, episode)
    if cls.iterates:
        train(method, 1)
    save_weights(tmp_path / "model.safetensors", method.state_dict())
    other = ready(cls, fresh, episode)
    other.load_state_dict(load_weights(tmp_path / "model.safetensors"))

    images = batch_of(method).images
    for names in (episode.class_names, ("a kite", "snow", "an old boat", "rust", "tea")):
        try:
            method.classifier(names)
        except UnseenClasses as refusal:
            assert names != episode.class_names and f"--method {cls.name}" in str(refusal)
            continue
        with torch.no_grad():
            logits = method.classifier(names)(images)
            again = other.classifier(names)(images)
        assert logits.shape == (len(images), len(names)) and logits.dtype == torch.float32
        assert bool(logits.isfinite().all()) and torch.equal(logits, again)


@pytest.mark.parametrize(("cls", "tower"), TRAINED, ids=name_of)
def test_a_batch_may_be_split_where_the_method_says_so(
    cls: type[Method], tower: str, backbone: Backbone, episode: Episode
) -> None:
    if not cls.mean_over_rows:
        pytest.skip("its loss looks at the whole batch")
    method = ready(cls, backbone, episode)
    batch = batch_of(method)
    descend(method, batch)
    whole = torch.cat([p.grad.flatten() for p in method.parameters() if p.grad is not None])
    for parameter in method.parameters():
        parameter.grad = None
    for rows in (slice(0, 4), slice(4, 6)):
        captions = None if batch.captions is None else batch.captions[rows]
        piece = Batch(batch.images[rows], batch.labels[rows], batch.domains[rows], batch.rows[rows], captions)
        terms = method.loss(piece)
        (sum(v for k, v in terms.items() if k.startswith("loss")) * len(piece) / 6).backward()
    parts = torch.cat([p.grad.flatten() for p in method.parameters() if p.grad is not None])
    assert (whole - parts).norm() < 1e-4 * whole.norm()


def test_weights_of_another_shape_are_refused(tiny: Backbone, episode: Episode) -> None:
    method = ready(get_method("erm"), tiny, episode)
    state = method.state_dict() | {"visual.proj": torch.zeros(2, 2)}
    with pytest.raises(UserError, match="do not fit"):
        method.load_state_dict(state)


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean zeroshot"):
        get_method("zero-shot")


def test_a_method_may_not_take_the_name_or_an_option_of_another() -> None:
    from dataclasses import dataclass

    @dataclass
    class Clash:
        batch_size: int = 1

    with pytest.raises(TypeError, match="batch_size"):
        register("new-method")(type("New", (Method,), {"Config": Clash}))
    with pytest.raises(TypeError, match="two methods"):
        register("erm")(type("Other", (Method,), {}))
    assert "new-method" not in list_methods()


def test_a_tower_that_is_not_supported_is_refused(tiny: Backbone, episode: Episode) -> None:
    only = type("Only", (Method,), {"towers": ("resnet",), "name": "only"})
    with pytest.raises(UserError, match="--method only works on resnet towers"):
        only().setup(tiny, episode, ("a {}.",))
