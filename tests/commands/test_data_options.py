"""Data options of `clipalign train`, by the files of the run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

import clipalign
from clipalign.commands.cli import main
from clipalign.evaluation.results import read_results


@pytest.fixture
def spoilt(squares_folder: Path, tmp_path: Path) -> Path:
    """Return the folder of squares with one empty file among 61."""
    root = tmp_path / "spoilt"
    shutil.copytree(squares_folder, root)
    (root / "dark" / "red_square" / "empty.png").write_bytes(b"")
    return root


def run(backbone: str, out: Path, data: Path, *options: str) -> int:
    tokens = ["train", "--method", "zeroshot", "--backbone", backbone, "--data", str(data), "--out", str(out)]
    return main([*tokens, *options])


def test_split_and_skipped_files_are_written_and_the_split_is_reused(
    tiny_spec: str, spoilt: Path, tmp_path: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert (
        run(tiny_spec, one, spoilt, "--target", "grey", "--target-split", "out", "--max-broken", "0.05") == 0
    )
    assert (one / "skipped.csv").read_text() == "path,reason\ndark/red_square/empty.png,not an image\n"
    split = json.loads((one / "split.json").read_text())
    (row,) = read_results(one)
    assert (row.test, row.n, row.target) == ("out", 4, "grey")
    assert row.extra["skipped"] == 1 and row.extra["interpolation"] == "bicubic"
    assert split["hash"] == row.split_hash and len(split["tests"][0]["rows"]) == 4
    assert "dark/red_square/empty.png" not in split["train"] + split["validation"]
    # The split of the file: same rows, same hash, nothing to skip.
    assert run(tiny_spec, two, spoilt, "--split-file", str(one / "split.json")) == 0
    assert read_results(two)[0].split_hash == row.split_hash
    assert not (two / "skipped.csv").exists()
    scored = clipalign.evaluate(one, data=str(spoilt), split_file=one / "split.json", out=tmp_path / "eval")
    assert scored[0].split_hash == row.split_hash and scored[0].accuracy == row.accuracy


def test_too_many_broken_files_are_an_error(
    tiny_spec: str, spoilt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tiny_spec, tmp_path / "out", spoilt, "--target", "grey") == 2
    assert "--max-broken" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_interpolation_class_names_and_shots_are_recorded(
    tiny_spec: str, spoilt: Path, tmp_path: Path
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("red_square tomato\n")
    options = ("--interpolation", "bicubic", "--class-names", str(names), "--layout", "domain")
    options += ("--protocol", "few-shot", "--shots", "2", "--max-broken", "0.1", "--template", "ensemble7")
    assert run(tiny_spec, tmp_path / "out", spoilt, *options) == 0
    stored = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert stored["record"]["interpolation"] == "bicubic" and "tomato" in stored["record"]["class_names"]
    assert len(stored["record"]["templates"]) == 7 and "2 shots" in stored["record"]["split"]
    (row,) = read_results(tmp_path / "out")
    assert row.extra["interpolation"] == "bicubic"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--target", "grey", "--shots", "2"), "--shots is for"),
        (("--target", "photo"), "no domain"),
        (("--shots", "0", "--protocol", "few-shot"), "--shots must be at least 1"),
        (("--split-file", "nowhere.json"), "--split-file: cannot read nowhere.json"),
        (("--class-names", "nowhere.txt", "--target", "grey"), "--class-names: cannot read"),
        (("--target", "grey", "--data-root", ".", "--data-options", "a=1"), "--data-options"),
    ],
)
def test_invalid_data_option_is_named(
    options: tuple[str, ...],
    message: str,
    squares_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("pocket", tmp_path / "out", squares_folder, *options) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()
