"""The contract of every method; a new file in methods/ is covered without changes here."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from clipalign.backbone import Backbone, load, preprocess_for
from clipalign.backbone.families import CAPABILITIES
from clipalign.core.checkpoint import load_weights, save_weights
from clipalign.core.config import TrainConfig
from clipalign.core.errors import UnseenClasses, UserError
from clipalign.core.fields import options_of
from clipalign.core.types import Batch, Episode
from clipalign.data.batches import TrainBatches
from clipalign.data.sources.folder import ImageFolder
from clipalign.engine.averaging import KINDS
from clipalign.methods import Method, SupportsCaptions, all_methods, get_method, list_methods, register
from clipalign.protocols import build_episode
from tests.helpers.backbones import copied
from tests.helpers.methods import total_loss

METHODS = all_methods()
PAIRS = [
    (method, tower)
    for method in METHODS
    for tower in ("vit", "resnet")
    if tower == "vit" or "image prompts" not in method.needs
]
TRAINED = [(method, tower) for method, tower in PAIRS if method.iterates]
SPLITTABLE = [(method, tower) for method, tower in TRAINED if method.mean_over_rows]
NEW_CLASSES = ("a kite", "snow", "an old boat", "rust", "tea")


def name_of(value: object) -> str:
    return getattr(value, "name", str(value))


@cache
def loaded(spec: str) -> Backbone:
    return load(spec)


@pytest.fixture
def backbone(tiny_spec: str, resnet_spec: str, request: pytest.FixtureRequest) -> Backbone:
    """A new copy of the tiny ViT or ResNet backbone."""
    tower = request.getfixturevalue("tower")
    return copied(loaded(tiny_spec if tower == "vit" else resnet_spec))


@pytest.fixture
def episode(squares: ImageFolder) -> Episode:
    return build_episode("in-the-wild", squares, "grey", 0)


def ready(cls: type[Method[Any]], backbone: Backbone, episode: Episode) -> Method[Any]:
    """Return a method set up with its defaults, with the RNG seeded first."""
    torch.manual_seed(0)
    method = cls()
    method.setup(backbone, episode, episode.source.templates)
    return method


def batch_of(method: Method[Any], step: int = 0, size: int = 6) -> Batch:
    """Return the training batch of a step, with captions of two sentences if the method needs them."""
    batch = TrainBatches(method.episode, size, 0, preprocess_for(method.backbone))[step]
    if method.learns_from == "classes":
        return batch
    names = [method.episode.class_names[label] for label in batch.labels.tolist()]
    pairs = zip(names, batch.rows.tolist(), strict=True)
    return replace(batch, captions=tuple(f"a {name}. it is number {row}." for name, row in pairs))


def train(method: Method[Any], steps: int) -> dict[str, Tensor]:
    """Run a few steps of AdamW and return a copy of the state."""
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-3)
    for step in range(steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        total_loss(method.loss(batch_of(method, step))).backward()
        optimizer.step()
        method.after_step(step + 1)
    return {name: tensor.clone() for name, tensor in method.state_dict().items()}


@pytest.mark.parametrize("method", METHODS, ids=name_of)
def test_class_attributes_are_valid(method: type[Method[Any]]) -> None:
    assert get_method(method.name) is method
    for text in (method.summary, method.source, method.trains):
        assert text == text.strip() and 0 < len(text) <= 120 and "\n" not in text
    assert re.search(r"\b20[12]\d\b", method.source), "the source needs a year"
    assert set(method.needs) <= set(CAPABILITIES)
    assert method.average in KINDS
    assert set(method.published) <= options_of(TrainConfig).keys() - {"method", "out"}
    assert isinstance(method(), SupportsCaptions) is (method.learns_from == "captions")


@pytest.mark.parametrize("method", METHODS, ids=name_of)
def test_config_is_frozen_and_every_option_has_a_help_text(method: type[Method[Any]]) -> None:
    assert method().config == method.Config()
    for option in options_of(method.Config).values():
        assert 0 < len(option.summary) <= 50, option.name  # one line of --help
        assert option.doc.endswith("."), option.name
        with pytest.raises(FrozenInstanceError):
            setattr(method.Config(), option.name, None)


@pytest.mark.parametrize(("cls", "tower"), TRAINED, ids=name_of)
def test_loss_terms_are_finite_scalars_with_one_to_minimise(
    cls: type[Method[Any]], tower: str, backbone: Backbone, episode: Episode
) -> None:
    method = ready(cls, backbone, episode)
    terms = method.loss(batch_of(method))
    assert any(name.startswith("loss") for name in terms)
    for name, value in terms.items():
        assert value.shape == () and bool(value.isfinite()), name


@pytest.mark.parametrize(("cls", "tower"), PAIRS, ids=name_of)
def test_trains_image_tower_agrees_with_the_trained_parameters(
    cls: type[Method[Any]], tower: str, backbone: Backbone, episode: Episode
) -> None:
    method = ready(cls, backbone, episode)
    trained = {id(parameter) for parameter in method.parameters()}
    of_tower = {id(parameter) for parameter in method.backbone.image_parameters()}
    assert method.trains_image_tower == bool(trained & of_tower)


class Products(TorchFunctionMode):
    """Records the operands and results of all matrix products of a given number of images."""

    def __init__(self, images: int) -> None:
        super().__init__()
        self.images = images
        self.records: list[tuple[Any, tuple[Tensor, ...], Tensor]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        products = (Tensor.matmul, Tensor.__matmul__, torch.matmul, F.linear)
        if func in products and len(result) == self.images and result.dim() in (2, 3):
            self.records.append((func, args, result))
        return result


@pytest.mark.parametrize("cls", METHODS, ids=name_of)
def test_logits_are_float32_products_of_the_features_under_autocast(
    cls: type[Method[Any]], tiny: Backbone, episode: Episode
) -> None:
    method = ready(cls, tiny, episode)
    batch = batch_of(method, size=8)  # not the width of a hidden layer
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), Products(len(batch)) as products:
        classify = method.classifier(episode.class_names)
        calls = [lambda: classify(batch.images)] + [lambda: method.loss(batch)] * cls.iterates
        for call in calls:
            products.records.clear()
            call()
            # [B, C], [B, C, 1] for prompts of each image, and [B, B] for contrastive losses
            logits = [
                (func, args, result)
                for func, args, result in products.records
                if result.squeeze(-1).shape[1:] in ((len(episode.class_names),), (len(batch),))
            ]
            assert logits
            for func, args, result in logits:
                assert result.dtype == torch.float32
                with torch.autocast("cpu", enabled=False):
                    exact = func(*(arg.float() for arg in args if isinstance(arg, Tensor)))
                assert torch.equal(result, exact)
                # Features are normalised in float32, too: bfloat16 would round every cosine by up to 0.4 %.
                norms = torch.cat([arg.float().norm(dim=-1).flatten() for arg in args[:2]])
                if bool(((norms - 1).abs() < 1e-2).all()):
                    torch.testing.assert_close(norms, torch.ones_like(norms), atol=1e-5, rtol=0)


@pytest.mark.parametrize("cls", METHODS, ids=name_of)
def test_logits_and_loss_are_float32_under_autocast(
    cls: type[Method[Any]], tiny: Backbone, episode: Episode
) -> None:
    method = ready(cls, tiny, episode)
    batch = batch_of(method)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = method.classifier(episode.class_names)(batch.images)
        terms = method.loss(batch) if cls.iterates else {}
    assert logits.dtype == torch.float32
    # A product computed in bfloat16 and converted afterwards would be unchanged by another rounding.
    assert not torch.equal(logits, logits.bfloat16().float())
    for name, value in terms.items():
        assert value.dtype == torch.float32 or not name.startswith("loss"), name


@pytest.mark.parametrize(("cls", "tower"), TRAINED, ids=name_of)
def test_gradients_reach_exactly_the_parameters(
    cls: type[Method[Any]], tower: str, backbone: Backbone, episode: Episode
) -> None:
    method = ready(cls, backbone, episode)
    total_loss(method.loss(batch_of(method))).backward()
    parameters = {id(parameter) for parameter in method.parameters()}
    assert any(p.grad is not None and bool(p.grad.any()) for p in method.parameters())
    tensors = [*backbone.named_parameters(), *method.extra.named_parameters()]
    # Not "is not zero": a bias on attention keys, for one, cannot change a softmax.
    reached = {id(p) for _, p in tensors if p.grad is not None}
    differing = [name for name, p in tensors if (id(p) in parameters) != (id(p) in reached)]
    assert parameters and reached == parameters, differing


@pytest.mark.parametrize(("cls", "tower"), TRAINED, ids=name_of)
def test_steps_are_reproducible_and_change_only_trained_weights(
    cls: type[Method[Any]], tower: str, backbone: Backbone, episode: Episode
) -> None:
    before = {name: tensor.clone() for name, tensor in backbone.model.state_dict().items()}
    first = train(ready(cls, copied(backbone), episode), 2)
    method = ready(cls, backbone, episode)
    second = train(method, 2)
    assert all(torch.equal(first[name], second[name]) for name in first)
    trained = {name for name, parameter in backbone.model.named_parameters() if parameter.requires_grad}
    changed = {name for name in before if not torch.equal(before[name], second[name])}
    assert changed <= trained


@pytest.mark.parametrize(("cls", "tower"), PAIRS, ids=name_of)
def test_saved_method_predicts_the_same_on_trained_and_new_classes(
    cls: type[Method[Any]], tower: str, backbone: Backbone, episode: Episode, tmp_path: Path
) -> None:
    fresh = copied(backbone)
    method = ready(cls, backbone, episode)
    if cls.iterates:
        train(method, 1)
    save_weights(tmp_path / "model.safetensors", method.state_dict())
    loaded = ready(cls, fresh, episode)
    loaded.load_state_dict(load_weights(tmp_path / "model.safetensors"))

    images = batch_of(method).images
    for names in (episode.class_names, NEW_CLASSES):
        try:
            method.classifier(names)
        except UnseenClasses as refusal:
            assert names != episode.class_names and f"--method {cls.name}" in str(refusal)
            continue
        with torch.no_grad():
            logits = method.classifier(names)(images)
            again = loaded.classifier(names)(images)
        assert logits.shape == (len(images), len(names)) and logits.dtype == torch.float32
        assert bool(logits.isfinite().all()) and torch.equal(logits, again)


@pytest.mark.parametrize(("cls", "tower"), SPLITTABLE, ids=name_of)
def test_gradient_of_a_split_batch_equals_that_of_the_whole(
    cls: type[Method[Any]], tower: str, backbone: Backbone, episode: Episode
) -> None:
    method = ready(cls, backbone, episode)
    batch = batch_of(method)
    total_loss(method.loss(batch)).backward()
    whole = torch.cat([p.grad.flatten() for p in method.parameters() if p.grad is not None])
    for parameter in method.parameters():
        parameter.grad = None
    for rows in (slice(0, 4), slice(4, 6)):
        captions = None if batch.captions is None else batch.captions[rows]
        part = Batch(batch.images[rows], batch.labels[rows], batch.domains[rows], batch.rows[rows], captions)
        (total_loss(method.loss(part)) * len(part) / 6).backward()
    parts = torch.cat([p.grad.flatten() for p in method.parameters() if p.grad is not None])
    assert (whole - parts).norm() < 1e-4 * whole.norm()


def test_weights_of_another_shape_raise(tiny: Backbone, episode: Episode) -> None:
    method = ready(get_method("erm"), tiny, episode)
    state = method.state_dict() | {"visual.proj": torch.zeros(2, 2)}
    with pytest.raises(UserError, match="do not fit"):
        method.load_state_dict(state)


def test_unknown_name_raises_and_suggests_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean zeroshot"):
        get_method("zero-shot")


def test_registering_a_taken_name_or_run_option_raises() -> None:
    @dataclass
    class Clash:
        batch_size: int = 1

    with pytest.raises(TypeError, match="batch_size"):
        register("new-method")(type("New", (Method,), {"Config": Clash}))
    with pytest.raises(TypeError, match="two methods"):
        register("erm")(type("Other", (Method,), {}))
    assert "new-method" not in list_methods()
