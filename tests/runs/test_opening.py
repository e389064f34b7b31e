"""A model is opened by the path of a run or the name of a backbone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import clipalign
from clipalign.backbone import load
from clipalign.commands.export import export
from clipalign.core.errors import UserError
from clipalign.runs.opening import open_model


def test_backbone_opens_as_zero_shot(tiny_spec: str) -> None:
    opened = open_model(tiny_spec, templates=("one {}.",))
    assert opened.method.name == "zeroshot" and opened.run is None
    assert opened.method.templates == ("one {}.",)
    assert opened.class_names == () and opened.record is None and opened.interpolation is None


def test_run_opens_with_its_classes_and_either_weights(
    tiny_spec: str, squares_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    options = {"backbone": tiny_spec, "target": "grey", "steps": 2, "batch_size": 4, "lr": 1e-2}
    clipalign.train("erm", squares_folder, out, average="ema", **options)  # type: ignore[arg-type]
    averaged, last = (open_model(out, weights=weights) for weights in ("model", "last"))
    assert averaged.method.name == "erm" and len(averaged.class_names) == 4
    assert averaged.interpolation == "bilinear"
    assert averaged.record is not None and averaged.record.target == "grey"
    first, second = (opened.method.state_dict()["visual.proj"] for opened in (averaged, last))
    assert not torch.equal(first, second)


def test_run_keeps_its_names_and_pooling(tiny_spec: str, squares_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = {"backbone": tiny_spec, "target": "grey", "steps": 1, "batch_size": 4}
    clipalign.train("erm", squares_folder, out, names="plain", pooling="patches", **options)  # type: ignore[arg-type]
    opened = open_model(out)
    backbone = opened.method.backbone
    assert (backbone.names, backbone.pooling) == ("plain", "patches")
    images = torch.randn(2, 3, *backbone.image_size)
    with torch.no_grad():
        logits = opened.method.classifier(opened.class_names)(images)
        image = torch.nn.functional.normalize(backbone.dense(images).patches.mean(dim=1), dim=-1)
        text = opened.method.text_features(opened.class_names)
    torch.testing.assert_close(logits, backbone.logit_scale * image @ text.T, rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="--pooling patches cannot be exported"):
        export(out, "safetensors", tmp_path / "export")
    rows = clipalign.evaluate(tiny_spec, squares_folder, tmp_path / "plain", names="plain")
    assert rows[0].extra["names"] == "plain"


@pytest.mark.parametrize("kind", ["tiny_spec", "resnet_spec"])
def test_patch_pooling_is_the_mean_of_the_patch_tokens(kind: str, request: pytest.FixtureRequest) -> None:
    backbone = load(request.getfixturevalue(kind))
    images = torch.randn(2, 3, *backbone.image_size)
    token, patches = backbone.encode_image(images), backbone.dense(images).patches
    backbone.pooling = "patches"
    pooled = backbone.encode_image(images)
    torch.testing.assert_close(pooled, patches.mean(dim=1))
    torch.testing.assert_close(backbone.dense(images, [0], "dv").image, pooled)
    assert not torch.allclose(pooled, token, rtol=1e-5, atol=1e-6)  # a random ResNet attends almost uniformly
    pooled.sum().backward()
    assert any(p.grad is not None for p in backbone.image_parameters())


def test_folder_that_is_not_a_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"MODEL: .* is not a run folder \(no config.yaml\)"):
        open_model(tmp_path)
