"""`explain` uses the towers and texts of the predictions, prompts included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from clipalign.backbone import preprocess_for
from clipalign.commands.cli import main
from clipalign.commands.explain import explain
from clipalign.data.decode import evaluation_view, read_image
from clipalign.explain.kinds import MapChoice, drawn_kinds
from clipalign.explain.maps import default_settings, make_maps
from clipalign.explain.photo import Explanation, NamedModel, explain_photo
from clipalign.methods import explain_text_features, get_method
from clipalign.runs.run import open_run, zeroshot
from tests.helpers.prompts import NAMES, backbone, ready

PROMPTED = ("maple", "promptsrc")


def moved(name: str, **options: Any) -> Any:
    """Return a prompt learner with vectors away from their initial values."""
    # Attention comes from the first third of the blocks; the first block has not seen a prompt yet, so six are needed.
    method = ready(get_method(name), backbone(vision_layers=6), **options)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return method


def explained(method: Any, picture: Image.Image) -> Explanation:
    layers = method.backbone.num_blocks
    kinds = drawn_kinds(MapChoice(), default_settings(layers), layers)
    return explain_photo(NamedModel("after", "after", method), picture, NAMES, kinds, whole=False)


@pytest.mark.parametrize("name", [*PROMPTED, "coop", "cocoop", "dpl"])
def test_explain_cosines_match_classifier_logits(name: str, squares_folder: Path) -> None:
    method = moved(name)
    picture = read_image(squares_folder / "dark" / "red_square" / "0.png")
    shown = explained(method, picture)
    preprocess = preprocess_for(method.backbone)
    images = preprocess.normalise(evaluation_view(picture, preprocess)[None])
    with torch.no_grad():
        logits = method.classifier(NAMES)(images)[0]
        # The towers without prompts give other logits.
        bare = F.normalize(method.backbone.encode_image(images), dim=-1)
        plain = bare @ F.normalize(method.backbone.encode_text(list(NAMES)), dim=-1).T
    torch.testing.assert_close(
        float(method.scale) * torch.tensor(shown.cosines), logits, rtol=1e-4, atol=1e-4
    )
    assert not torch.allclose(method.scale * plain[0], logits, atol=0.1)


def test_explain_uses_stored_prompts_of_dpl(squares_folder: Path) -> None:
    method = moved("dpl", prompt_from="training")
    method.generator.update_mean(torch.randn_like(method.generator.mean))
    picture = read_image(squares_folder / "dark" / "red_square" / "0.png")
    preprocess = preprocess_for(method.backbone)
    images = preprocess.normalise(evaluation_view(picture, preprocess)[None])
    with torch.no_grad():
        logits = method.classifier(NAMES)(images)[0]
    shown = torch.tensor(explained(method, picture).cosines)
    torch.testing.assert_close(float(method.scale) * shown, logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", PROMPTED)
def test_maps_come_from_the_prompted_tower(name: str, squares_folder: Path) -> None:
    method = moved(name)
    picture = read_image(squares_folder / "dark" / "red_square" / "0.png")
    shown = explained(method, picture).maps
    preprocess = preprocess_for(method.backbone)
    images = preprocess.normalise(evaluation_view(picture, preprocess)[None])
    text = method.class_features(NAMES)
    bare = make_maps(method.backbone, images, text)
    with method.hooks():
        prompted = make_maps(method.backbone, images, text)
    for part in ("attention", "patches", "guide"):
        actual = shown[part][0] if part == "attention" else shown[part]
        torch.testing.assert_close(actual, getattr(prompted, part)[0])
        assert not torch.allclose(actual, getattr(bare, part)[0], atol=1e-4), part


def test_explain_of_prompted_run_differs_from_zero_shot(
    tiny_spec: str, squares_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "maple"
    arguments = ["train", "--method", "maple", "--data", str(squares_folder), "--target", "grey"]
    arguments += ["--protocol", "domain-shift", "--backbone", tiny_spec, "--steps", "2"]
    assert main([*arguments, "--batch-size", "4", "--lr", "1", "--out", str(out)]) == 0
    image = squares_folder / "grey" / "red_square" / "0.png"
    files = explain(out, [image], ["red square", "green square"], out=tmp_path / "maps")
    with np.load(files[1]) as maps:
        assert np.abs(maps["maple_patches"] - maps["zero-shot_patches"]).max() > 1e-4
    # The zero-shot model encodes texts as they are, the run as class names.
    run = open_run(out)
    images = torch.zeros(1, 3, *run.backbone.image_size)
    own, plain = (
        explain_text_features(m, ["red square"], images) for m in (run.method, zeroshot(run.backbone))
    )
    assert not torch.allclose(own, plain)
