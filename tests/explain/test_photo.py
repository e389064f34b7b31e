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
from clipalign.data.decode import evaluation_view, read_image
from clipalign.explain.photo import heat, on_screen
from clipalign.explain.windows import Box
from clipalign.runs.run import open_run


@pytest.fixture
def image_file(squares_folder: Path) -> Path:
    return squares_folder / "dark" / "red_square" / "0.png"


@pytest.mark.parametrize(
    ("size", "shape"), [((4000, 3000), (480, 640)), ((1, 1), (320, 320)), ((500, 400), (400, 500))]
)
def test_photos_on_screen_have_readable_size(size: tuple[int, int], shape: tuple[int, int]) -> None:
    pixels = on_screen(Image.new("RGB", size, "white"), Box(0, 0, 1, 1))
    assert pixels.shape == (*shape, 3) and pixels.min() > 0.99


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
        assert picture.height > picture.width > 100  # three rows, two columns


def test_run_is_explained_with_its_own_layers_and_guide(
    tmp_path: Path, image_file: Path, squares_folder: Path, tiny_spec: str
) -> None:
    arguments = ["--data", str(squares_folder), "--target", "grey", "--backbone", tiny_spec, "--steps", "1"]
    arguments += ["--guide", "vvv", "--dual-blocks", "2", "--first-aligned-layer", "2", "--batch-size", "4"]
    run_training([*arguments, "--out", str(tmp_path / "run")])
    files = explain(tmp_path / "run", [image_file], ["a bell"], view="centre", out=tmp_path / "maps")
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
        ({"images": "nowhere.png"}, "no image file"),
        ({"images": "text.png"}, "does not decode"),
        ({"images": "empty"}, "no images in"),
        ({"images": "line.png"}, "line.png: the image has 600 x 2 pixels, .*--view centre"),
        ({"structure": ["xyz"]}, 'structure "xyz"'),
        ({"layers": [3]}, r"--layers \[3\]: this backbone has 3"),
        ({"heads": [2]}, r"heads \[2\]: this backbone has 2"),
        ({"redundancy_removal": True}, "--redundancy-removal"),
        ({"compare": ["nope"]}, "nope"),
        ({"model": "small"}, "--backbone"),
        ({"out": "full"}, "--out"),
    ],
)
def test_invalid_options_raise(
    tmp_path: Path, image_file: Path, tiny_spec: str, change: dict, message: str
) -> None:
    (tmp_path / "text.png").write_text("not an image", encoding="utf-8")
    (tmp_path / "full").mkdir()
    (tmp_path / "empty").mkdir()
    Image.new("RGB", (600, 2)).save(tmp_path / "line.png")
    (tmp_path / "full" / "precious").touch()
    given = {"model": tiny_spec, "images": image_file, "text": ["a bell"], "out": "maps"} | change
    for name in ("images", "out"):
        given[name] = tmp_path / given[name]
    given["images"] = [given["images"]]
    with pytest.raises(UserError, match=message):
        explain(**given)
    assert not (tmp_path / "maps").exists()
