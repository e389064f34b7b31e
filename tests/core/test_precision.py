"""The released code's rounding: which weights, and what is left of an update."""

from __future__ import annotations

import copy
from typing import Any

import open_clip.model
import pytest
import torch

from clipalign.backbone import Backbone, load
from clipalign.core.precision import Precision, half_weights, round_to_half
from clipalign.engine.averaging import make_average

CPU = torch.device("cpu")


@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_the_weights_in_half_are_those_of_clips_loader(tower: str, tiny_spec: str, resnet_spec: str) -> None:
    model: Any = load(tiny_spec if tower == "vit" else resnet_spec).model
    converted = copy.deepcopy(model)
    open_clip.model.convert_weights_to_lp(converted)
    wanted = {name for name, p in converted.named_parameters() if p.dtype == torch.float16}
    chosen = {id(p) for p in half_weights(model)}
    assert {name for name, p in model.named_parameters() if id(p) in chosen} == wanted
    assert len(wanted) > 10


def test_only_trained_weights_are_rounded_and_only_when_asked(tiny: Backbone) -> None:
    tiny.requires_grad_(False)
    tiny.model.visual.requires_grad_(True)
    assert Precision("fp32", CPU).rounded(tiny.model) == []
    rounded = {id(p) for p in Precision("released-fp16", CPU).rounded(tiny.model)}
    visual: Any = tiny.model.visual
    assert id(visual.proj) in rounded and id(visual.conv1.weight) in rounded
    assert id(visual.class_embedding) not in rounded and id(visual.ln_post.weight) not in rounded
    assert id(tiny.model.text_projection) not in rounded


def test_updates_below_half_the_spacing_of_float16_are_lost() -> None:
    # Between 1/64 and 1/32 neighbours lie 2^-16 = 1.5e-5 apart; between 1/512 and 1/256, 1.9e-6.
    weights = torch.tensor([1 / 64, 0.02, 1 / 512, 0.003])
    round_to_half([weights])
    moved = weights + 5e-6
    round_to_half([moved])
    assert torch.equal(moved[:2], weights[:2]) and bool((moved[2:] > weights[2:]).all())
    decayed = weights * (1 - 5e-6 * 0.1)  # a step of weight decay
    round_to_half([decayed])
    assert torch.equal(decayed, weights)


def test_the_average_in_half_is_the_released_arithmetic() -> None:
    generator = torch.Generator().manual_seed(0)
    path = [0.02 * torch.randn(50, generator=generator)]
    for _ in range(40):
        path.append(path[-1] + 5e-6 * torch.randn(50, generator=generator).sign())
    parameters = [path[0].clone(), path[0].clone()]
    average = make_average("bma", parameters, 40)
    average.accumulate_in_half(parameters[:1])
    mean, weights = path[0].half(), [((t + 0.5) / 41 * (1 - (t + 0.5) / 41)) ** -0.5 for t in range(41)]
    for t in range(1, 41):
        for parameter in parameters:
            parameter.copy_(path[t])
        average.update(t)
        ratio = weights[t] / sum(weights[:t])
        mean = (mean + ratio * path[t].half()) / (1 + ratio)
    assert torch.equal(average.average[0], mean.float())
    exact = sum(w * p.double() for w, p in zip(weights, path, strict=True)) / sum(weights)
    torch.testing.assert_close(average.average[1].double(), exact, atol=1e-8, rtol=1e-5)
    assert not torch.equal(average.average[0], average.average[1])


def test_training_keeps_half_values(tiny: Backbone, squares: Any, tmp_path: Any) -> None:
    from clipalign.core.config import TrainConfig
    from clipalign.core.parsing import make_config
    from clipalign.data.batches import TrainBatches
    from clipalign.engine.fit import fit
    from clipalign.engine.progress import Reporter
    from clipalign.engine.setup import preprocess_for
    from clipalign.engine.validation import SourceValidation
    from clipalign.evaluation import EvalLoader
    from clipalign.methods import get_method
    from clipalign.protocols import build_episode
    from clipalign.runs.folder import RunFolder

    def run(precision: str, lr: float) -> dict[str, torch.Tensor]:
        backbone = copy.deepcopy(tiny)
        episode = build_episode("domain-shift", squares, "grey", 0)
        given = {"out": tmp_path, "steps": 3, "batch_size": 6, "lr": lr}
        config = make_config(TrainConfig, {**given, "weight_decay": 0.0, "validate_every": 0})
        method = get_method("erm")()
        method.setup(backbone, episode, ("a {}.",))
        views = EvalLoader(squares, preprocess_for(backbone))
        steps, validation = TrainBatches(episode, 6, 0, views.preprocess), SourceValidation(episode, views)
        chosen = Precision(precision, CPU)
        fit(method, config, "bma", RunFolder(tmp_path), steps, validation, chosen, Reporter(False))
        return dict(backbone.model.visual.named_parameters())

    before = dict(tiny.model.visual.named_parameters())
    released, exact = run("released-fp16", 1e-7), run("fp32", 1e-7)
    chosen = {id(p) for p in half_weights(tiny.model.visual)}
    names = [name for name, p in before.items() if id(p) in chosen]
    assert all(torch.equal(released[n], released[n].half().float()) for n in names)
    assert "conv1.weight" in names and not torch.equal(exact["conv1.weight"], before["conv1.weight"])
    big = before["conv1.weight"].abs() > 0.01
    assert torch.equal(released["conv1.weight"][big], before["conv1.weight"].half().float()[big])
    # Layer norms and embeddings are float32 there too, and move.
    assert not torch.equal(released["class_embedding"], before["class_embedding"])
