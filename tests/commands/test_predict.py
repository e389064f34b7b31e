from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

import clipalign
from clipalign.commands.cli import main


@pytest.fixture
def names(tmp_path: Path) -> Path:
    path = tmp_path / "names.txt"
    path.write_text("red square\nblue square\nan old boat\n")
    return path


@pytest.fixture
def folder(squares_folder: Path, tmp_path: Path) -> Path:
    """Return a folder of images at two depths, with a text file named .png."""
    shutil.copytree(squares_folder / "grey", tmp_path / "new")
    (tmp_path / "new" / "broken.png").write_text("text")
    return tmp_path / "new"


def test_predictions_of_folders_are_written_to_files(
    tiny_spec: str, folder: Path, names: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["predict", tiny_spec, str(folder), "--classes-file", str(names), "--topk", "2"]
    out = tmp_path / "deep" / "p.csv"
    assert main([*command, "--out", str(out)]) == 0
    output = capsys.readouterr()
    assert "20 images classified, 1 skipped" in output.out and "broken.png does not decode" in output.err
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 41 and {row["rank"] for row in rows} == {"", "1", "2"}
    assert [row["image"] for row in rows if row["error"]] == [str(folder / "broken.png")]
    assert main([*command, "--out", str(out)]) == 2 and "--overwrite" in capsys.readouterr().err
    assert main([*command, "--out", str(tmp_path / "p.json")]) == 0
    stored = json.loads((tmp_path / "p.json").read_text())
    assert len(stored) == 21
    best = {row["image"]: row["class"] for row in rows if row["rank"] == "1"}
    assert all(item["classes"][0] == best[item["image"]] for item in stored if item["classes"])
    assert main([*command, "--out", str(tmp_path / "p.xlsx")]) == 2
    capsys.readouterr()
    assert main(command) == 0 and "broken.png" in capsys.readouterr().err


def test_named_file_that_is_not_an_image_is_an_error(
    tiny_spec: str, folder: Path, names: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", tiny_spec, str(folder / "broken.png"), "--classes-file", str(names)]) == 2
    assert "broken.png does not decode" in capsys.readouterr().err
    (folder / "empty").mkdir()
    assert main(["predict", tiny_spec, str(folder / "empty"), "--classes-file", str(names)]) == 2
    assert "no images in" in capsys.readouterr().err


def test_batch_size_does_not_change_predictions(
    tiny_spec: str, squares_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, classes = [squares_folder / "grey"], ["red square", "blue square"]
    whole = clipalign.predict(tiny_spec, images, classes, topk=1)
    monkeypatch.setattr("clipalign.commands.predict.BATCH", 3)
    parts = clipalign.predict(tiny_spec, images, classes, topk=1)
    assert [p.image for p in whole] == [p.image for p in parts] and len(whole) == 20
    for one, other in zip(whole, parts, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)


def test_classes_on_the_command_line_equal_those_of_a_file(
    tiny_spec: str, squares_folder: Path, names: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["predict", tiny_spec, str(squares_folder / "grey")]
    assert main([*command, "--out", str(tmp_path / "a.csv"), "--classes-file", str(names)]) == 0
    listed = ["--classes", "red square", "blue square", "an old boat"]
    assert main([*command, "--out", str(tmp_path / "b.csv"), *listed]) == 0
    assert (tmp_path / "a.csv").read_text() == (tmp_path / "b.csv").read_text()
    capsys.readouterr()
    assert main([*command, *listed, "--classes-file", str(names)]) == 2
    assert "--classes and --classes-file exclude each other" in capsys.readouterr().err
    assert main(command) == 2 and "--classes NAME" in capsys.readouterr().err


def test_pocket_backbone_is_said_to_know_drawings_only(
    squares_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = next((squares_folder / "grey").rglob("*.png"))
    assert main(["predict", "pocket", str(image), "--classes", "red square", "blue square"]) == 0
    assert "knows drawings of everyday objects only" in capsys.readouterr().err
