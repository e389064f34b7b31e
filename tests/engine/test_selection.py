"""--select best: which validation wins, what is kept, and resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from clipalign.backbone import Backbone
from clipalign.commands.train import run_training, train_from
from clipalign.core.checkpoint import load_weights
from clipalign.core.errors import UserError
from clipalign.data.sources.folder import ImageFolder
from clipalign.engine.selection import BestWeights
from clipalign.engine.validation import ClassValidation
from clipalign.evaluation import EvalLoader
from clipalign.methods import Method
from clipalign.protocols import build_episode
from tests.helpers.methods import image_weights, ready, source_validation


@pytest.fixture
def method(tiny: Backbone, squares: ImageFolder) -> Method[Any]:
    return ready("erm", tiny, build_episode("domain-shift", squares, "grey", 0))


def shift(method: Method[Any]) -> None:
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(1.0)


def test_weights_of_the_highest_accuracy_are_restored_and_ties_go_to_the_first(method: Method[Any]) -> None:
    best, seen = BestWeights(method), []
    for step, accuracy in enumerate([0.2, 0.5, 0.4, 0.5], 1):
        shift(method)
        seen.append(image_weights(method))
        best.observe(step, {"validation_accuracy": accuracy})
    best.restore()
    assert best.step == 2 and best.metrics == {"validation_accuracy": 0.5}
    assert torch.equal(image_weights(method), seen[1])


def test_mean_over_domains_counts_more_than_pooled_accuracy(method: Method[Any]) -> None:
    best = BestWeights(method)
    best.observe(1, {"validation_accuracy": 0.9, "validation_domain_accuracy": 0.4})
    best.observe(2, {"validation_accuracy": 0.3, "validation_domain_accuracy": 0.5})
    assert best.step == 2


def test_only_trained_tensors_are_copied(method: Method[Any]) -> None:
    best = BestWeights(method)
    best.observe(1, {"validation_accuracy": 0.0})
    trained = {name for name, p in method.named_parameters() if p.requires_grad}
    assert trained <= set(best.weights)
    assert not {name for name, _ in method.named_parameters()} - trained & set(best.weights)


def test_state_is_restored(method: Method[Any]) -> None:
    first = BestWeights(method)
    first.observe(3, {"validation_recall": 0.25})
    kept = image_weights(method)
    second = BestWeights(method)
    second.load_state_dict(first.state_dict())
    shift(method)
    second.observe(4, {"validation_recall": 0.2})
    second.restore()
    assert second.step == 3 and torch.equal(image_weights(method), kept)


def test_validation_measures_the_mean_over_source_domains(method: Method[Any]) -> None:
    validation = source_validation(method.episode, method.backbone)
    metrics = validation.evaluate(method)
    episode = method.episode
    outputs = validation.loader.outputs(
        method.classifier(episode.class_names), episode.validation_rows, "validation", episode.train_classes
    )
    correct = outputs.logits.argmax(axis=1) == outputs.labels
    shares = [correct[outputs.domains == d].mean() for d in episode.train_domains]
    assert metrics["validation_domain_accuracy"] == pytest.approx(np.mean(shares))


def test_augmented_training_views_follow_the_option(method: Method[Any]) -> None:
    def images(augment: Any) -> Tensor:
        loader = source_validation(method.episode, method.backbone).loader
        validation = ClassValidation(method.episode, loader, 0, augment)
        return torch.cat([batch.images for batch in validation.training(augmented=1)])

    plain = [b.images for b in source_validation(method.episode, method.backbone).training()]
    assert torch.equal(images("none"), torch.cat(plain))
    assert not torch.equal(images("coop"), images("clip-crop"))
    assert isinstance(source_validation(method.episode, method.backbone).loader, EvalLoader)


def arguments(folder: Path, backbone: str, out: Path, *more: str) -> list[str]:
    fixed = (
        "--method erm --target grey --protocol domain-shift --steps 6 --batch-size 4 --lr 1e-2 --device cpu"
    )
    return [*fixed.split(), "--data", str(folder), "--backbone", backbone, "--out", str(out), *more]


@pytest.mark.parametrize("average", ["none", "ema"])
def test_run_keeps_the_weights_of_its_best_validation(
    average: str, tiny_spec: str, squares_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accuracies, seen = iter([0.1, 0.2, 0.9, 0.3, 0.2, 0.1]), []
    measure = ClassValidation.evaluate

    def evaluate(self: ClassValidation, method: Method[Any]) -> dict[str, float]:
        seen.append({name: tensor.clone() for name, tensor in method.state_dict().items()})
        return measure(self, method) | {"validation_domain_accuracy": next(accuracies)}

    monkeypatch.setattr(ClassValidation, "evaluate", evaluate)
    more = ("--select", "best", "--validate-every", "1", "--average", average)
    rows = run_training(arguments(squares_folder, tiny_spec, tmp_path / "run", *more))
    assert rows[0].extra["selected_step"] == 3 and rows[0].recipe == "published"
    model = load_weights(tmp_path / "run" / "model.safetensors")
    assert all(torch.equal(tensor, seen[2][name]) for name, tensor in model.items())
    last = load_weights(tmp_path / "run" / "last.safetensors")
    assert any(not torch.equal(tensor, last[name]) for name, tensor in model.items())


def test_last_keeps_the_last_weights(tiny_spec: str, squares_folder: Path, tmp_path: Path) -> None:
    rows = run_training(arguments(squares_folder, tiny_spec, tmp_path / "run", "--augment", "domainbed"))
    assert "selected_step" not in rows[0].extra and "augment" in str(rows[0].recipe_changes)
    model, last = (load_weights(tmp_path / "run" / f"{name}.safetensors") for name in ("model", "last"))
    assert all(torch.equal(tensor, last[name]) for name, tensor in model.items())


def test_epochs_give_the_number_of_steps_of_the_data(
    tiny_spec: str, squares_folder: Path, squares: ImageFolder, tmp_path: Path
) -> None:
    images = len(build_episode("domain-shift", squares, "grey", 0).train_rows)
    given = {"method": "erm", "data": str(squares_folder), "target": "grey", "backbone": tiny_spec}
    values = {**given, "epochs": 2, "batch_size": 4, "device": "cpu", "out": tmp_path / "run"}
    rows = train_from(values)
    assert rows[0].steps == max(1, round(2 * images / 4))
    again = train_from({**values, "resume": True})
    assert [row.steps for row in again] == [row.steps for row in rows]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--select", "best", "--average", "swad"), "--select best: --average swad chooses the weights"),
        (
            ("--data", "pictograms", "--target", "noto", "--augment", "coop"),
            "--augment coop has no effect on",
        ),
    ],
)
def test_option_without_effect_is_an_error(
    more: tuple[str, ...], message: str, tiny_spec: str, squares_folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        run_training(arguments(squares_folder, tiny_spec, tmp_path / "run", *more))
    assert not (tmp_path / "run").exists()


def test_selection_of_a_recipe_gives_way_to_swad(
    tiny_spec: str, squares_folder: Path, tmp_path: Path
) -> None:
    tokens = arguments(
        squares_folder, tiny_spec, tmp_path / "run", "--average", "swad", "--validate-every", "1"
    )
    tokens[tokens.index("erm")] = "coral"
    rows = run_training([*tokens, "--coral-weight", "0.1"])
    assert rows[0].average == "swad" and "selected_step" not in rows[0].extra
