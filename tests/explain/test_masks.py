"""`explain --masks` on a method with known masks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from clipalign.backbone.text.features import text_features
from clipalign.commands.cli import main
from clipalign.commands.explain import explain
from clipalign.core.errors import UserError
from clipalign.explain.masks import mask_figure, view_masks
from clipalign.methods.zeroshot import ZeroShot
from clipalign.runs import opening
from clipalign.runs.run import zeroshot

OWNED = {"red": (0, 1), "apple": (1, 2, 3), "guitar": (8,)}


class Words(ZeroShot):
    """The mask of a text is the union of the dimensions of its words."""

    def encode_captions(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        masks = torch.zeros(len(texts), 24)
        for row, text in zip(masks, texts, strict=True):
            for word, own in OWNED.items():
                if word in text.split():
                    row[list(own)] = 1
        return text_features(self.backbone, texts), masks


@pytest.fixture
def masked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Open every backbone as a method with those masks."""

    def with_masks(*arguments: Any) -> Words:
        method = Words()
        method.__dict__.update(zeroshot(*arguments).__dict__)
        return method

    monkeypatch.setattr(opening, "zeroshot", with_masks)
    yield


def test_masks_are_drawn_printed_and_written(
    masked: None, tiny_spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "masks"
    texts = ["a red apple", "a guitar", "an apple", "a $5 or $6 thing", "a guitar"]
    assert main(["explain", tiny_spec, "--masks", *texts, "--out", str(out), "--device", "cpu"]) == 0
    output = capsys.readouterr().out
    assert "4 of 24" in output and "0.75" in output and "1 duplicate texts were dropped" in output
    assert sorted(path.name for path in out.iterdir()) == ["masks.json", "masks.png"]
    facts = json.loads((out / "masks.json").read_text())
    assert [t["text"] for t in facts["texts"]] == texts[:4]
    assert [t["active"] for t in facts["texts"]] == [4, 1, 3, 0]
    assert facts["texts"][0]["active_dimensions"] == [0, 1, 2, 3]
    assert facts["jaccard_overlap"] == [[1, 0, 0.75, 0], [0, 1, 0, 0], [0.75, 0, 1, 0], [0, 0, 0, 1]]
    assert (facts["active_mean"], facts["active_min"], facts["active_max"]) == (2, 0, 4)
    with Image.open(out / "masks.png") as picture:
        assert picture.width > picture.height > 100


def test_truncated_text_is_reported(
    masked: None, tiny_spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "red " + "word " * 98
    files = explain(tiny_spec, masks=[text], out=tmp_path / "masks", device="cpu")
    assert "101 (24 cut)" in " ".join(capsys.readouterr().out.split())
    facts = json.loads(files[1].read_text())
    assert (facts["texts"][0]["tokens"], facts["texts"][0]["tokens_cut"], facts["window"]) == (101, 24, 77)
    assert facts["jaccard_overlap"] == [[1]]


def test_figure_of_many_texts_has_no_numbers(masked: None, tiny_spec: str) -> None:
    view = view_masks(opening.open_model(tiny_spec).method, [f"red {i}" for i in range(30)])
    figure = mask_figure(view)
    assert not any("0.0" in text.get_text() or "1.00" in text.get_text() for text in figure.axes[0].texts)
    assert figure.axes[1].images[0].get_array().shape == (30, 24)


def test_masks_with_image_and_disentanglement_write_all_files(
    masked: None, tiny_spec: str, squares_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = squares_folder / "dark" / "red_square" / "0.png"
    options: dict[str, Any] = {"masks": ["a red apple"], "disentanglement": True, "device": "cpu"}
    files = explain(tiny_spec, [image], ["red"], out=tmp_path / "out", **options)
    assert [path.name for path in files] == [
        "explain.png",
        "maps.npz",
        "masks.png",
        "masks.json",
        "disentanglement.json",
    ]
    report = json.loads(files[-1].read_text())
    assert report["concepts"] == 256 and set(report["relations"]) == {"subgroup", "group"}
    assert "union against the joined mask" in capsys.readouterr().out


def test_method_without_masks_raises_and_writes_nothing(
    tiny_spec: str, squares_folder: Path, tmp_path: Path
) -> None:
    image = squares_folder / "dark" / "red_square" / "0.png"
    for given in ({"masks": ["a dog"]}, {"disentanglement": True}):
        with pytest.raises(UserError, match="zeroshot has no masks"):
            explain(tiny_spec, [image], ["red"], out=tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"masks": ["a dog", " "]}, "--masks: text number 2 is empty"),
        ({"masks": ["a dog"], "text": ["a dog"]}, "needs an image file"),
        ({}, "--text"),
    ],
)
def test_invalid_options_raise(tiny_spec: str, tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        explain(tiny_spec, out=tmp_path / "out", **change)
    assert not (tmp_path / "out").exists()
