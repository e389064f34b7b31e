"""An ONNX export serves photos without PyTorch: the tokenizer, and examples/serve_onnx.py."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image

import clipalign
from clipalign.commands.export import export
from clipalign.runs.export.base import LONG_TEXT
from clipalign.runs.export.to_onnx import clip_tokenizer

for package in ("onnxscript", "onnxruntime", "tokenizers"):
    pytest.importorskip(package, reason="the extra [onnx] is not installed")

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "serve_onnx.py"
CLASSES = ["red square", "blue_square", "an old boat", "t-shirt"]
TEXTS = [
    *(
        "a photo of a cat.",
        "It's the dog's  toy, isn't it?",
        "Ünïcödé café ☕ 北京",
        "3D 1234 #5!",
        "I'LL We're",
        "",
    ),
    *("tab\tand\nnew line", "under_score-hyphen", LONG_TEXT, "a" * 300),
]


@pytest.mark.parametrize("window", [77, 248])
def test_tokens_are_those_of_open_clip(window: int) -> None:
    tokenizer = SimpleTokenizer()
    expected = tokenizer(TEXTS, context_length=window).tolist()
    assert [text.ids for text in clip_tokenizer(tokenizer, window).encode_batch(TEXTS)] == expected


def test_example_gives_the_probabilities_of_torch(
    tiny_spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    export(tiny_spec, "onnx", tmp_path / "model")
    capsys.readouterr()
    model = clipalign.load(tiny_spec, device="cpu")
    classify = runpy.run_path(str(EXAMPLE))["Classifier"](tmp_path / "model", CLASSES)
    rng = np.random.default_rng(0)
    for size in ((40, 61), (33, 32), (50, 20)):
        photo = Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
        (expected,) = model.predict(photo, CLASSES, topk=len(CLASSES))
        found = dict(zip(CLASSES, classify(photo).tolist(), strict=True))
        assert found == pytest.approx(
            dict(zip(expected.classes, expected.probabilities, strict=True)), abs=1e-5
        )
    photo.save(tmp_path / "photo.png")
    command = [str(EXAMPLE), str(tmp_path / "model"), str(tmp_path / "photo.png"), *CLASSES]
    monkeypatch.setattr(sys, "argv", command)
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) == len(CLASSES) and "old boat" in printed
