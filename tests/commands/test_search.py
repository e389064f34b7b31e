"""`clipalign embed` and `clipalign search`: nearest images, masks, resuming, and what they refuse."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import clipalign
from clipalign.commands import embed as embed_module
from clipalign.commands.cli import main
from clipalign.commands.search import best, nearest, search_images
from clipalign.core.errors import UserError
from clipalign.losses import unit_features
from clipalign.report.contact_sheet import SheetRow, contact_sheet
from clipalign.runs.vectors import read_vectors


@pytest.fixture(scope="module")
def photos(squares_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos") / "grey"
    shutil.copytree(squares_folder / "grey", folder)
    (folder / "broken.png").write_text("text")
    return folder


@pytest.fixture(scope="module")
def vectors(photos: Path, tiny_spec: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("vectors") / "a"
    assert main(["embed", str(photos), "--model", tiny_spec, "--out", str(out), "--batch-size", "7"]) == 0
    return out


def copy_of(vectors: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(vectors, tmp_path / "vectors"))


def test_vectors_are_the_features_of_the_images(vectors: Path, photos: Path, tiny_spec: str) -> None:
    stored = read_vectors(vectors)
    assert len(stored.files) == 20 and all(Path(file).is_absolute() for file in stored.files)
    model = clipalign.load(tiny_spec, device="cpu")
    torch.testing.assert_close(stored.features, model.encode_image(stored.files))
    index = json.loads((vectors / "index.json").read_text())
    assert [Path(entry["file"]).name for entry in index["skipped"]] == ["broken.png"]
    assert sorted(path.name for path in vectors.iterdir()) == ["features.safetensors", "index.json"]


def test_search_prints_the_nearest_images(
    vectors: Path, tiny_spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "sheet.png"
    query = read_vectors(vectors).files[3]
    command = ["search", "a red square", "--in", str(vectors), "--image", query, "--top", "3"]
    capsys.readouterr()
    assert main([*command, "--json", "--sheet", str(sheet)]) == 0
    text, image = json.loads(capsys.readouterr().out)
    stored = read_vectors(vectors)
    scores = stored.features @ clipalign.load(tiny_spec, device="cpu").encode_text("a red square")[0]  # [N]
    order = scores.argsort(descending=True, stable=True)[:3].tolist()
    assert [hit["score"] for hit in text["hits"]] == pytest.approx(scores[order].tolist(), abs=1e-6)
    assert image["kind"] == "image" and image["hits"][0]["file"] == query
    assert image["hits"][0]["score"] == pytest.approx(1, abs=1e-5)
    assert Image.open(sheet).size[0] > 300
    assert main(command) == 0
    assert "a red square" in (printed := capsys.readouterr().out) and query in printed


def test_interrupted_command_resumes_and_new_images_are_added(
    photos: Path, tiny_spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = Path(shutil.copytree(photos, tmp_path / "photos")), tmp_path / "vectors"
    (folder / "broken.png").unlink()
    monkeypatch.setattr(embed_module, "PART_BATCHES", 1)
    original, calls = embed_module.write_part, []

    def stop_after_two(*given: Any) -> None:
        original(*given)
        calls.append(len(given[2]))
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(embed_module, "write_part", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        clipalign.embed_images([folder], tiny_spec, out, batch_size=6)
    with pytest.raises(UserError, match="is not complete"):
        read_vectors(out)
    resumed = clipalign.embed_images([folder], tiny_spec, out, batch_size=6, resume=True)
    assert calls == [6, 6, 6, 2]  # 12 images before the interruption, 8 after it
    whole = clipalign.embed_images([folder], tiny_spec, tmp_path / "whole")
    torch.testing.assert_close(resumed.features, whole.features)
    first = Path(resumed.files[0])
    Image.new("RGB", (40, 40), "white").save(first)  # changed
    Image.new("RGB", (40, 40), "black").save(folder / "yellow_square" / "zz.png")  # new, and the last one
    Path(resumed.files[1]).unlink()  # gone
    calls[:] = [0] * 3
    updated = clipalign.embed_images([folder], tiny_spec, out, resume=True)
    assert calls[3:] == [2] and len(updated.files) == 20 and resumed.files[1] not in updated.files
    assert not torch.allclose(updated.features[0], resumed.features[0])
    torch.testing.assert_close(updated.features[1:-1], resumed.features[2:])


def test_masked_models_score_in_the_dimensions_of_the_text(
    tiny_spec: str, captions_csv: Path, squares_folder: Path, photos: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "backbone": tiny_spec,
        "data_root": squares_folder,
        "steps": 1,
        "batch_size": 4,
    }
    run = clipalign.train("smartclip", captions_csv, tmp_path / "run", **options)
    stored = clipalign.embed_images([photos], tmp_path / "run", tmp_path / "v")
    (found,) = search_images(tmp_path / "v", ["a red square"], top=20)
    text, mask = (encoded[0] for encoded in run.method.encode_captions(["a red square"]))  # type: ignore[attr-defined]
    masked = unit_features(stored.features * mask)  # [N, d]
    expected = (masked @ text).sort(descending=True).values
    assert [hit.score for hit in found.hits] == pytest.approx(expected.tolist(), abs=1e-5)
    assert 0 < mask.sum() < len(mask)  # else the mask would not matter


def test_vectors_of_another_model_are_an_error(
    vectors: Path,
    tiny_spec: str,
    resnet_spec: str,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["search", "a", "--in", str(vectors), "--model", resnet_spec]) == 2
    assert "is not the model that wrote" in capsys.readouterr().err
    out = copy_of(vectors, tmp_path)
    assert main(["embed", str(photos), "--model", resnet_spec, "--out", str(out), "--resume"]) == 2
    assert "another model wrote" in capsys.readouterr().err
    index = json.loads((out / "index.json").read_text())
    (out / "index.json").write_text(json.dumps(index | {"digest": "0"}))
    assert main(["search", "a", "--in", str(out)]) == 2
    assert "has changed since it wrote" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("search a --in {tmp}/none", "holds no vectors (no index.json)"),
        ("search --in {vectors}", "search needs a text"),
        ("search a --in {vectors} --sheet a.jpg", "must end in .png"),
        ("search --in {vectors} --image none.png", "no image file none.png"),
        ("search a", "--vectors is missing"),
        ("embed {photos} --model x --out {vectors}", "holds vectors; give --resume"),
        ("embed {photos} --model x --out {photos}", "holds something other than vectors"),
        ("embed {tmp} --model x --out {tmp}/v", "no images in"),
        ("embed {photos} --model x --out {tmp}/v --resume --overwrite", "give one of them"),
        ("embed --model x --out {tmp}/v", "IMAGES is missing"),
    ],
)
def test_invalid_input_is_one_line(
    command: str,
    message: str,
    vectors: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tokens = [token.format(tmp=tmp_path, vectors=vectors, photos=photos) for token in command.split()]
    assert main(tokens) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "v").exists()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=12), st.integers(1, 14))
def test_best_is_a_stable_sort(values: list[int], top: int) -> None:
    scores = np.array(values, np.float32)
    expected = sorted(range(len(values)), key=lambda i: (-values[i], i))[:top]
    found, order = best(scores, top)
    assert order.tolist() == expected and found.tolist() == [values[i] for i in expected]


@pytest.mark.skipif(importlib.util.find_spec("faiss") is None, reason="the extra [search] is not installed")
def test_faiss_and_numpy_agree() -> None:
    generator = torch.Generator().manual_seed(0)
    features = unit_features(torch.randn(500, 16, generator=generator))
    one, other = (nearest(features, features[7], 5, index) for index in ("numpy", "faiss"))  # type: ignore[arg-type]
    assert one[1].tolist() == other[1].tolist() and one[1][0] == 7
    np.testing.assert_allclose(one[0], other[0], atol=1e-6)


def test_faiss_that_is_missing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipalign.commands.search.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install .clipalign\[search\]"):
        nearest(torch.eye(2), torch.ones(2), 1, "faiss")
    assert nearest(torch.eye(2), torch.tensor([0.0, 1.0]), 1)[1].tolist() == [1]


def test_sheet_draws_missing_files_and_dollar_signs(squares_folder: Path) -> None:
    files = [
        *sorted(squares_folder.glob("grey/*/0.png")),
        squares_folder / "none$a$.png",
        squares_folder / "b.png",
    ]
    figure = contact_sheet([SheetRow("price $x$ or $y$", files, [0.5] * 6), SheetRow("b", files[:1], [1.0])])
    assert len(figure.axes) == 7
    figure.canvas.draw()
