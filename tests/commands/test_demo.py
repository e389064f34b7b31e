"""The whole demo with random weights and one step: its commands and its files."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest

from clipalign.commands import demo
from clipalign.commands.explain import explain
from clipalign.core.errors import UserError
from clipalign.data.builtin import pictograms
from clipalign.evaluation.results import read_results
from clipalign.runs.options import train_command, train_options


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(pictograms.VIEWS, "test", 1)  # a quarter of the test images is enough here
        demo.run(["--out", str(out), "--steps", "1", "--pictures", "2", "--backbone", "pocket:random"])
    return out


@pytest.fixture
def image_file(squares_folder: Path) -> Path:
    return squares_folder / "dark" / "red_square" / "0.png"


def test_demo_writes_runs_and_report(done: Path) -> None:
    for method in demo.METHODS:
        rows = read_results(done / "runs" / method)
        assert [row.test for row in rows] == ["all", "base", "new"]
        assert {row.protocol for row in rows} == {"in-the-wild"}
        assert rows[0].command and rows[0].command.startswith("clipalign train")
    # One task for all: the table would not show them side by side otherwise.
    assert len({read_results(done / "runs" / method)[0].split_hash for method in demo.METHODS}) == 1
    text = (done / "report.md").read_text(encoding="utf-8")
    for expected in (
        "zeroshot",
        "erm",
        "alignclip",
        "pictures/maps.png",
        "pictures/curves-1.png",
        "D-V (",
    ):
        assert expected in text
    html = (done / "report.html").read_text(encoding="utf-8")
    pictures = sorted((done / "pictures").glob("*.png"))
    assert len(pictures) >= 2 and html.count("data:image/png;base64,") == len(pictures)


def test_demo_in_a_used_folder_is_an_error(done: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in done.rglob("*")}
    with pytest.raises(UserError, match="--overwrite"):
        demo.run(["--out", str(done), "--steps", "1"])
    assert {path: path.stat().st_mtime_ns for path in done.rglob("*")} == before


def test_explain_draws_a_run_and_its_backbone(done: Path, tmp_path: Path, image_file: Path) -> None:
    files = explain(done / "runs" / "alignclip", [image_file], ["a bell", "a tent"], out=tmp_path / "maps")
    assert [file.name for file in files] == ["explain.png", "maps.npz"]
    with np.load(files[1]) as maps:
        assert maps["texts"].tolist() == ["a bell", "a tent"]
        # 40 x 36 pixels: the height fits the grid of the backbone, the width has a patch more.
        assert maps["zero-shot_guide"].shape == maps["alignclip_guide"].shape == (2, 12, 13)
        assert np.isclose(maps["alignclip_attention"].sum(), 1, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "--steps"),
        (["--target", "photo"], "--target"),
        (["--backbone", "big"], "--backbone"),
        (["--method", "erm"], "--method"),
    ],
)
def test_invalid_option_of_demo_writes_nothing(tmp_path: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        demo.run(["--out", str(tmp_path / "out"), *arguments])
    assert not (tmp_path / "out").exists()


def test_printed_commands_are_valid(tmp_path: Path) -> None:
    config = demo.DemoConfig(out=tmp_path)
    for method in demo.METHODS:
        options = train_options(shlex.split(train_command(demo.training_options(config, method)))[2:])
        assert (options.method.name, options.config.split.target) == (method, config.target)
        assert options.config.schedule.steps == 150 or method == "zeroshot"
