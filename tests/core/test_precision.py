"""Rounding of "released-fp16": the affected weights, and the updates that it loses."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import open_clip.model
import pytest
import torch

from clipalign.backbone import Backbone, load
from clipalign.core.config import TrainConfig
from clipalign.core.errors import UserError
from clipalign.core.parsing import make_config
from clipalign.core.precision import Precision, half_weights, round_to_half, select_device
from clipalign.data.sources.folder import ImageFolder
from clipalign.engine.averaging import make_average
from clipalign.methods import get_method
from clipalign.protocols import build_episode
from tests.helpers.training import fit_quietly

CPU = torch.device("cpu")


@pytest.mark.parametrize("tower", ["vit", "resnet"])
def test_half_weights_match_clips_convert_weights(tower: str, tiny_spec: str, resnet_spec: str) -> None:
    model: Any = load(tiny_spec if tower == "vit" else resnet_spec).model
    converted = copy.deepcopy(model)
    open_clip.model.convert_weights_to_lp(converted)
    wanted = {name for name, p in converted.named_parameters() if p.dtype == torch.float16}
    chosen = {id(p) for p in half_weights(model)}
    assert {name for name, p in model.named_parameters() if id(p) in chosen} == wanted
    assert len(wanted) > 10


def test_half_parameters_are_trained_weights_of_released_fp16_only(tiny: Backbone) -> None:
    tiny.requires_grad_(False)
    tiny.model.visual.requires_grad_(True)
    assert Precision("fp32", CPU).half_parameters(tiny.model) == []
    rounded = {id(p) for p in Precision("released-fp16", CPU).half_parameters(tiny.model)}
    visual: Any = tiny.model.visual
    assert id(visual.proj) in rounded and id(visual.conv1.weight) in rounded
    assert id(visual.class_embedding) not in rounded and id(visual.ln_post.weight) not in rounded
    assert id(tiny.model.text_projection) not in rounded


def test_rounding_loses_updates_below_half_the_float16_spacing() -> None:
    # float16 spacing: 2^-16 = 1.5e-5 between 1/64 and 1/32, 1.9e-6 between 1/512 and 1/256.
    weights = torch.tensor([1 / 64, 0.02, 1 / 512, 0.003])
    round_to_half([weights])
    moved = weights + 5e-6
    round_to_half([moved])
    assert torch.equal(moved[:2], weights[:2]) and bool((moved[2:] > weights[2:]).all())
    decayed = weights * (1 - 5e-6 * 0.1)  # one step of weight decay
    round_to_half([decayed])
    assert torch.equal(decayed, weights)


def test_half_average_follows_the_released_arithmetic() -> None:
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


def test_training_with_released_fp16_keeps_half_valued_weights(
    tiny: Backbone, squares: ImageFolder, tmp_path: Path
) -> None:
    def run(precision: str, lr: float) -> dict[str, torch.Tensor]:
        backbone = copy.deepcopy(tiny)
        episode = build_episode("domain-shift", squares, "grey", 0)
        given = {
            "out": tmp_path,
            "steps": 3,
            "batch_size": 6,
            "lr": lr,
            "average": "bma",
            "precision": precision,
        }
        config = make_config(TrainConfig, {**given, "weight_decay": 0.0, "validate_every": 0})
        method = get_method("erm")()
        method.setup(backbone, episode, ("a {}.",))
        fit_quietly(method, config, episode)
        return dict(backbone.model.visual.named_parameters())

    before = dict(tiny.model.visual.named_parameters())
    released, exact = run("released-fp16", 1e-7), run("fp32", 1e-7)
    chosen = {id(p) for p in half_weights(tiny.model.visual)}
    names = [name for name, p in before.items() if id(p) in chosen]
    assert all(torch.equal(released[n], released[n].half().float()) for n in names)
    assert "conv1.weight" in names and not torch.equal(exact["conv1.weight"], before["conv1.weight"])
    big = before["conv1.weight"].abs() > 0.01
    assert torch.equal(released["conv1.weight"][big], before["conv1.weight"].half().float()[big])
    # Layer norms and embeddings stay float32, so they are updated.
    assert not torch.equal(released["class_embedding"], before["class_embedding"])


def test_auto_precision_on_a_cpu_is_fp32_and_missing_devices_raise() -> None:
    assert Precision("auto", CPU).name == "fp32"
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        Precision("fp16", CPU)
    with pytest.raises(UserError, match="--device"):
        select_device("tpu7")
    with pytest.raises(UserError, match="--device"):
        select_device("cuda:99")


def test_bf16_on_a_cpu_runs_attention_as_matrix_products(tiny: Backbone) -> None:
    images = torch.randn(2, 3, 32, 32)
    with torch.profiler.profile() as profile, Precision("bf16", CPU).autocast():
        features = tiny.encode_image(images)
    kernels = {event.key for event in profile.key_averages()}
    assert "aten::_scaled_dot_product_flash_attention_for_cpu" not in kernels
    assert {"aten::bmm", "aten::addmm"} & kernels
    torch.testing.assert_close(features.float(), tiny.encode_image(images), rtol=0.05, atol=0.05)
