from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest
from PIL import Image

from clipalign.commands.cli import main
from clipalign.core.errors import UserError
from clipalign.data.check import examine
from clipalign.data.registry import load_source
from clipalign.data.sources.table import ImageTable
from clipalign.runs.options import train_options


@pytest.fixture
def spoilt(squares_folder: Path, tmp_path: Path) -> Path:
    """The squares with one text file, one copy under another class, and one class with an id for a name."""
    root = tmp_path / "spoilt"
    shutil.copytree(squares_folder, root)
    (root / "dark" / "red_square" / "text.jpg").write_text("hello")
    (root / "light" / "n01440764").mkdir()
    shutil.copy(root / "dark" / "blue_square" / "1.png", root / "light" / "n01440764" / "copy.png")
    return root


def test_findings(spoilt: Path) -> None:
    source = load_source(str(spoilt))
    assert isinstance(source, ImageTable)
    found = examine(source)
    assert {source.keys[row]: why for row, why in found.broken.items()} == {
        "dark/red_square/text.jpg": "not an image"
    }
    assert ["dark/blue_square/1.png", "light/n01440764/copy.png"] in [
        [source.keys[row] for row in rows] for rows in found.duplicates
    ]
    assert found.ids == ["n01440764"]
    assert found.sizes == {(40, 36): 61}
    assert found.counts["dark", "red_square"] == 6 and found.counts.total() == 62


def test_the_report_says_it_all_and_how_to_train(
    spoilt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "sheet.png"
    assert main(["data", "check", str(spoilt), "--sheet", str(sheet), "--layout", "domain"]) == 0
    text = capsys.readouterr().out
    for expected in (
        "62 images, 3 domain(s), 5 class(es)",
        "width 40 to 40 (median 40)",
        "dark/red_square/text.jpg: not an image",
        "dark/blue_square/1.png = light/n01440764/copy.png",
        "in different classes",
        "look like ids",
        "n01440764 (1)",
        "grey has no images of 1 classes: n01440764",
    ):
        assert expected in text
    assert "┃" not in text  # plain where nobody looks at a terminal
    assert Image.open(sheet).width > 600
    command = shlex.split(text.splitlines()[-1])
    options = train_options(command[2:])  # the command printed is one that train takes
    data = options.config.data
    assert (data.data, options.config.split.target, data.layout) == (str(spoilt), "light", "domain")


def test_a_sound_data_set_has_no_problems(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for k, name in enumerate(("cat", "dog")):
        (tmp_path / "d" / name).mkdir(parents=True)
        for i in range(6):
            Image.new("RGB", (9, 9), (k * 100, 20 * i, 0)).save(tmp_path / "d" / name / f"{i}.png")
    assert main(["data", "check", str(tmp_path / "d"), "--sheet", str(tmp_path / "s.png")]) == 0
    text = capsys.readouterr().out
    assert "No broken files" in text and "--protocol few-shot" in text


def test_class_names_that_collide_are_an_error_after_the_whole_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("alarm_clock", "Alarm-Clock", "hot dog", "hot-dog", "Hot_Dog", "--", "n01440764", "cat"):
        (tmp_path / "d" / name).mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(tmp_path / "d" / name / "a.png")
    (tmp_path / "d" / "cat" / "b.png").write_text("no image")
    assert main(["data", "check", str(tmp_path / "d"), "--sheet", str(tmp_path / "s.png")]) == 2
    said = capsys.readouterr()
    for expected in (
        "9 images, 1 domain(s), 8 class(es)",
        '"Alarm-Clock" = "alarm_clock"',
        '"Hot_Dog" = "hot dog" = "hot-dog"',
        '1 class names are empty to a model or not UTF-8: "--"',
        "1 class names look like ids",
        "cat/b.png: not an image",
        "To train, after fixing the class names:",
    ):
        assert expected in said.out
    assert "--class-names FILE" in said.err and (tmp_path / "s.png").is_file()
    with pytest.raises(UserError, match=r"and 2 more|number 0 is empty"):
        load_source(str(tmp_path / "d"))  # as training does
    mended = tmp_path / "names.csv"
    mended.write_text("--,dash\nAlarm-Clock,bell\nhot-dog,sausage\nHot_Dog,bun\n")
    arguments = ["data", "check", str(tmp_path / "d"), "--sheet", "None", "--class-names", str(mended)]
    assert main(arguments) == 0
    assert "the same to a model" not in capsys.readouterr().out


def test_pictograms_can_be_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", "pictograms", "--sheet", str(tmp_path / "s.png")]) == 0
    assert "5 domain(s)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["look"], "unknown command"),
        (["check"], "data"),
        (["check", "nowhere"], "neither a folder"),
        (["check", ".", "--sed", "3"], "--seed"),
    ],
)
def test_bad_input(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", *arguments]) == 2
    assert message in capsys.readouterr().err
