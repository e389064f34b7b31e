"""Attention metrics of a tiny model on Pictograms, against the definitions computed view by view."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor

from clipalign.backbone import Backbone, load, preprocess_for
from clipalign.core.config import MetricOptions
from clipalign.core.errors import UserError
from clipalign.core.types import TestSet
from clipalign.data.builtin.pictograms import Pictograms
from clipalign.data.sources.folder import ImageFolder
from clipalign.evaluation import EvalLoader, Outputs, outputs_by_test
from clipalign.evaluation.context import MetricContext, ModelOutputs
from clipalign.evaluation.object_masks import ObjectsOnly, object_masks
from clipalign.explain.attention_metrics import Attention, estimate
from clipalign.methods import Method
from clipalign.runs.run import zeroshot

CLASSES = (0, 1, 2, 30, 60, 90)


def context_of(source: Any, backbone: Backbone, tests: list[TestSet], **options: Any) -> MetricContext:
    method = zeroshot(backbone)
    loader = EvalLoader(source, preprocess_for(backbone))
    return MetricContext(
        loader, method, method.classifier, tests, method.templates, options=MetricOptions(**options)
    )


@pytest.fixture(scope="module")
def measured(tiny_spec: str) -> Iterator[tuple[MetricContext, Outputs, dict[str, Any]]]:
    source, backbone = Pictograms(), load(tiny_spec)
    test = TestSet("all", np.array(CLASSES), CLASSES)
    context = context_of(source, backbone, [test])
    metric = Attention()
    metric.check(context)
    outputs = outputs_by_test(context.loader, context.classifier_of, [test])["all"]
    assert isinstance(outputs, Outputs)
    with torch.no_grad():
        yield context, outputs, metric.compute(ModelOutputs(context, test, outputs, {"all": outputs}))  # type: ignore[misc]


def view(context: MetricContext, row: int, draw: int) -> tuple[Tensor, np.ndarray]:
    """Return an image [1, 3, H, W] and its mask as bool [h, w]."""
    source = context.source
    assert isinstance(source, Pictograms)
    images = source.images(np.array([row]), "test", np.array([draw]), 0, context.loader.preprocess)
    return images, source.sample(row, "test", draw).silhouette.numpy()


def test_attention_values_match_their_definitions(measured: Any) -> None:
    context, _outputs, values = measured
    backbone = context.method.backbone
    ratios, hits, precisions = [], [], []
    for row in CLASSES:
        for draw in range(4):
            image, mask = view(context, row, draw)
            with torch.no_grad():
                attention = backbone.dense(image, [0]).cls_attention[0, 0].reshape(4, 4)  # 3 blocks: layer 0
            cover = torch.from_numpy(mask).reshape(4, 16, 4, 16).mean(dim=(1, 3))  # [4, 4]
            ratios.append(float((attention * cover).sum() / cover.mean()))
            pixels = torch.nn.functional.interpolate(attention[None, None], size=(64, 64), mode="bilinear")[
                0, 0
            ]
            inside = mask > 0.5
            hits.append(inside.ravel()[int(pixels.argmax())])
            precisions.append(average_precision_score(inside.ravel(), pixels.numpy().ravel().round(6)))
    assert values["attention_mass_ratio"] == pytest.approx(np.mean(ratios), rel=1e-4)
    assert values["attention_pointing"] == pytest.approx(np.mean(hits), abs=0.05)  # ties at the border
    assert values["attention_ap"] == pytest.approx(np.mean(precisions), abs=2e-3)
    assert values["attention_mass_ratio_by_layer"]["0"] == pytest.approx(values["attention_mass_ratio"])
    assert set(values["attention_pointing_by_layer"]) == {"0", "1", "2"}
    assert set(values["guide_ap_by_structure"]) == {"dv", "vvv", "qkv"}
    assert values["guide_ap_by_structure"]["dv"] == pytest.approx(values["guide_ap"])


def test_background_reliance_counts_answers_that_need_the_background(measured: Any) -> None:
    context, outputs, values = measured
    classifier = context.classifier_of([context.source.class_names[c] for c in CLASSES])
    lost, kept = 0, 0
    for position, row in enumerate(CLASSES):
        for draw in range(4):
            image, mask = view(context, row, draw)
            alpha = torch.nn.functional.interpolate(
                torch.from_numpy(mask)[None, None], size=(32, 32), mode="bilinear", antialias=True
            )
            with torch.no_grad():
                before, after = (int(classifier(x).argmax()) for x in (image, image * alpha))
            if before == position:
                lost, kept = lost + (after != position), kept + (after == position)
    assert outputs.correct.sum() == lost + kept
    if lost + kept:
        assert values["background_reliance"] == pytest.approx(lost / (lost + kept))


def test_every_value_lies_in_its_interval_and_in_range(measured: Any) -> None:
    _, _, values = measured
    names = {field.name for field in Attention.fields}
    assert set(values) <= names
    for name in [name for name in values if f"{name}_interval" in values]:
        bounds = values[f"{name}_interval"]
        assert bounds["low"] - 1e-9 <= values[name] <= bounds["high"] + 1e-9, name
        assert values[name] >= 0 and (values[name] <= 1 or name == "attention_mass_ratio")
    assert 0.1 < values["mosaic"] < 0.5  # random weights: near the chance of 0.25


def test_estimate_resamples_units() -> None:
    rng = np.random.default_rng(0)
    scores = np.repeat(rng.random(40), 5)
    one, alike = estimate(scores, np.arange(200)), estimate(scores, np.repeat(np.arange(40), 5))
    assert [one[0], alike[0]] == pytest.approx([scores.mean()] * 2)
    width = [found["high"] - found["low"] for _, found in (one, alike)]
    assert 1.8 < width[1] / width[0] < 2.8  # sqrt(5)


def test_mask_files_are_cropped_like_their_images(
    tiny: Backbone, squares: ImageFolder, square_masks: Path
) -> None:
    preprocess = preprocess_for(tiny)
    masks = object_masks(squares, square_masks, preprocess)
    rows = np.array([0, 7, 59])
    found = masks(rows, np.zeros(3, np.int64))
    assert found.shape == (3, 32, 32)
    images = squares.images(rows, "test", np.zeros(3, np.int64), 0, preprocess)
    background = images[:, :, :1, :1]  # corner; squares are of another colour
    objects = ((images - background).abs().amax(dim=1) > 0.5).float()
    assert ((found > 0.5).float() - objects).abs().mean() < 0.05
    blank = ObjectsOnly(squares, masks).images(rows, "test", np.zeros(3, np.int64), 0, preprocess)
    torch.testing.assert_close(blank, images * found[:, None])


def test_missing_or_unfitting_masks_raise(
    tiny: Backbone, squares: ImageFolder, square_masks: Path, tmp_path: Path
) -> None:
    from PIL import Image

    test = TestSet("all", np.arange(4), (0, 1, 2, 3))
    with pytest.raises(UserError, match=r"has no masks of its objects; give a folder .* --object-masks DIR"):
        Attention().check(context_of(squares, tiny, [test]))
    with pytest.raises(UserError, match=r"--object-masks: .* is not a folder"):
        Attention().check(context_of(squares, tiny, [test], object_masks=tmp_path / "none"))
    key = Path(squares.keys[0])
    (tmp_path / key.parent).mkdir(parents=True)
    Image.new("L", (5, 5)).save(tmp_path / key)
    with pytest.raises(UserError, match=r"has no mask for .*1\.png and 2 other images"):
        Attention().check(context_of(squares, tiny, [test], object_masks=tmp_path))
    with pytest.raises(UserError, match=r"0\.png has 5 x 5 pixels, its image .*0\.png has 40 x 36"):
        object_masks(squares, tmp_path, preprocess_for(tiny))(np.array([0]), np.array([0]))
    with pytest.raises(UserError, match="--object-masks needs data of image files"):
        Attention().check(context_of(Pictograms(), tiny, [test], object_masks=tmp_path))


def test_patch_pooling_has_no_class_attention(tiny: Backbone) -> None:
    tiny.pooling = "patches"
    with pytest.raises(UserError, match="--pooling patches classifies by the mean of the patch tokens"):
        Attention().check(context_of(Pictograms(), tiny, [TestSet("all", np.arange(4), (0, 1))]))


def test_resnet_attention_pool_is_one_layer(resnet_spec: str) -> None:
    test = TestSet("all", np.array([0, 1]), (0, 1))
    context = context_of(Pictograms(), load(resnet_spec), [test])
    outputs = outputs_by_test(context.loader, context.classifier_of, [test])["all"]
    assert isinstance(outputs, Outputs) and isinstance(context.method, Method)
    with torch.no_grad():
        values = Attention().compute(ModelOutputs(context, test, outputs, {"all": outputs}))
    layers = values["attention_mass_ratio_by_layer"]
    assert isinstance(layers, dict) and set(layers) == {"0"}
    assert "mosaic" not in values  # two classes
