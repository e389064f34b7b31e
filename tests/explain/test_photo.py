from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clipalign.backbone import load, preprocess_for
from clipalign.backbone.text.features import text_features
from clipalign.commands.explain import explain, run_explain
from clipalign.commands.train import run_training
from clipalign.core.errors import UserError
from clipalign.core.types import Preprocess
from clipalign.data.decode import evaluation_view, read_image
from clipalign.explain.photo import heat, visible_part
from clipalign.runs.run import open_run


@pytest.fixture
def image_file(squares_folder: Path) -> Path:
    return squares_folder / "dark" / "red_square" / "0.png"


def preprocess(height: int, width: int) -> Preprocess:
    return Preprocess((height, width), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("image", "model", "shape"),
    [
        ((90, 60), (64, 64), (60, 60)),  # width x height: the central square
        ((60, 90), (64, 64), (60, 60)),
        ((90, 60), (32, 64), (30, 60)),  # a wide model sees a wide part
        ((4000, 3000), (64, 64), (640, 640)),
        ((1, 1), (64, 64), (1, 1)),
    ],
)
def test_visible_part_has_the_shape_of_the_model_input(
    image: tuple[int, int], model: tuple[int, int], shape: tuple[int, int]
) -> None:
    part = visible_part(Image.new("RGB", image, "white"), preprocess(*model))
    assert part.shape == (*shape, 3)
    assert part.min() > 0.99  # nothing from outside the image


def test_visible_part_is_the_centre() -> None:
    pixels = np.zeros((40, 100, 3), np.uint8)
    pixels[:, 30:70] = 255
    assert visible_part(Image.fromarray(pixels), preprocess(64, 64)).mean() > 0.95


def test_heat_spans_zero_to_one() -> None:
    shown = heat(torch.rand(3, 5, generator=torch.Generator().manual_seed(0)), (30, 50))
    assert shown.shape == (30, 50) and shown.min() == 0 and shown.max() == 1


def test_backbone_is_explained_without_a_second_model(
    tmp_path: Path, image_file: Path, tiny_spec: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files = run_explain([tiny_spec, str(image_file), "--text", "a bell", "--out", str(tmp_path / "maps")])
    assert capsys.readouterr().out.split() == [str(file) for file in files]
    with np.load(files[1]) as maps:
        assert set(maps) == {"texts", "zero-shot_attention", "zero-shot_patches", "zero-shot_guide"}
    with Image.open(files[0]) as picture:
        assert picture.width > picture.height > 100


def test_run_is_explained_with_its_own_layers_and_guide(
    tmp_path: Path, image_file: Path, squares_folder: Path, tiny_spec: str
) -> None:
    arguments = ["--data", str(squares_folder), "--target", "grey", "--backbone", tiny_spec, "--steps", "1"]
    arguments += ["--guide", "vvv", "--dual-blocks", "2", "--first-aligned-layer", "2", "--batch-size", "4"]
    run_training([*arguments, "--out", str(tmp_path / "run")])
    files = explain(tmp_path / "run", image_file, ["a bell"], out=tmp_path / "maps")
    run = open_run(tmp_path / "run")
    preprocess = preprocess_for(run.backbone)
    images = preprocess.normalise(evaluation_view(read_image(image_file), preprocess)[None])
    dense = load(tiny_spec).dense(images, (2,), "vvv", 2)  # before training, with the settings of the run
    text = text_features(run.backbone, ["a bell"])
    with np.load(files[1]) as maps:
        np.testing.assert_allclose(
            maps["zero-shot_attention"].ravel(), dense.cls_attention[0, 0].detach(), rtol=1e-4
        )
        assert dense.guide is not None
        expected = torch.nn.functional.normalize(dense.guide[0], dim=-1) @ text[0]  # [M]
        np.testing.assert_allclose(maps["zero-shot_guide"].ravel(), expected.detach(), atol=1e-4)
        assert np.abs(maps["alignclip_guide"] - maps["zero-shot_guide"]).max() > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": []}, "--text"),
        ({"text": [" "]}, "--text"),
        ({"image": "nowhere.png"}, "no image file"),
        ({"image": "text.png"}, "does not decode"),
        ({"model": "small"}, "--backbone"),
        ({"out": "full"}, "--out"),
    ],
)
def test_invalid_options_raise(
    tmp_path: Path, image_file: Path, tiny_spec: str, change: dict, message: str
) -> None:
    (tmp_path / "text.png").write_text("not an image", encoding="utf-8")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").touch()
    given = {"model": tiny_spec, "image": image_file, "text": ["a bell"], "out": "maps"} | change
    for name in ("image", "out"):
        given[name] = tmp_path / given[name]
    with pytest.raises(UserError, match=message):
        explain(**given)
    assert not (tmp_path / "maps").exists()
