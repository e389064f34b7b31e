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
from clipalign.data.sources.folder import empty_classes
from clipalign.data.sources.table import ImageTable
from clipalign.runs.options import train_options


@pytest.fixture
def flawed(squares_folder: Path, tmp_path: Path) -> Path:
    """The squares with one invalid file, one duplicate in another class, and one class named by an id."""
    root = tmp_path / "flawed"
    shutil.copytree(squares_folder, root)
    (root / "dark" / "red_square" / "text.jpg").write_text("hello")
    (root / "light" / "n01440764").mkdir()
    shutil.copy(root / "dark" / "blue_square" / "1.png", root / "light" / "n01440764" / "copy.png")
    return root


def test_examine_finds_broken_duplicate_and_unnamed_items(flawed: Path) -> None:
    source = load_source(str(flawed))
    assert isinstance(source, ImageTable)
    findings = examine(source)
    assert {source.keys[row]: why for row, why in findings.broken.items()} == {
        "dark/red_square/text.jpg": "not an image"
    }
    assert ["dark/blue_square/1.png", "light/n01440764/copy.png"] in [
        [source.keys[row] for row in rows] for rows in findings.duplicates
    ]
    assert findings.ids == ["n01440764"]
    assert findings.sizes == {(40, 36): 61}
    assert findings.counts["dark", "red_square"] == 6 and findings.counts.total() == 62


def test_check_prints_problems_and_a_valid_training_command(
    flawed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "sheet.png"
    assert main(["data", "check", str(flawed), "--sheet", str(sheet), "--layout", "domain"]) == 0
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
    assert "┃" not in text  # no box characters without a terminal
    assert Image.open(sheet).width > 600 and Image.open(sheet).height > 500  # a row of images for each class
    command = shlex.split(text.splitlines()[-1])
    options = train_options(command[2:])  # the printed command parses
    data = options.config.data
    assert (data.data, options.config.split.target, data.layout) == (str(flawed), "light", "domain")


def test_check_of_a_valid_data_set_reports_no_problems(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for k, name in enumerate(("cat", "dog")):
        (tmp_path / "d" / name).mkdir(parents=True)
        for i in range(6):
            Image.new("RGB", (40, 36), (k * 100, 20 * i, 0)).save(tmp_path / "d" / name / f"{i}.png")
    assert main(["data", "check", str(tmp_path / "d"), "--sheet", str(tmp_path / "s.png")]) == 0
    text = capsys.readouterr().out
    assert "No broken files" in text and "--protocol holdout" in text


def test_check_names_unusual_sizes_empty_classes_and_heic_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "d" / "empty").mkdir(parents=True)
    (tmp_path / "d" / ".hidden").mkdir()
    for k, name in enumerate(("cat", "dog")):
        (tmp_path / "d" / name).mkdir()
        for i in range(6):
            Image.new("RGB", (40, 36), (k * 100, 20 * i, 0)).save(tmp_path / "d" / name / f"{i}.png")
    Image.new("RGB", (31, 300)).save(tmp_path / "d" / "cat" / "tiny.png")
    Image.new("RGB", (400, 100)).save(tmp_path / "d" / "cat" / "long.png")
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    (tmp_path / "d" / "dog" / "phone.HEIC").write_bytes(heic)
    (tmp_path / "d" / "dog" / "renamed.jpg").write_bytes(heic)
    monkeypatch.chdir(tmp_path)
    assert main(["data", "check", "d"]) == 0
    text = capsys.readouterr().out
    for expected in (
        "1 images are smaller than 32 pixels",
        "cat/tiny.png: 31 x 300",
        "1 images are longer than 3 times",
        "cat/long.png: 400 x 100",
        "1 HEIC files are ignored; Pillow does not read this format",
        "dog/phone.HEIC",
        "dog/renamed.jpg: HEIC: Pillow does not read",
        "1 class folders have no images:\n  empty\n",
    ):
        assert expected in text
    assert [path.name for path in tmp_path.iterdir()] == ["d"]  # no picture unless it is named
    assert main(["data", "check", "d", "--sheet", "picture"]) == 2
    assert "--sheet: picture must end in .png" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "d")
    (tmp_path / "d" / "dog").mkdir(parents=True)
    (tmp_path / "d" / "dog" / "phone.heic").write_bytes(heic)
    assert main(["data", "check", "d"]) == 2
    assert "has only HEIC files, such as dog/phone.heic; Pillow" in capsys.readouterr().err


def test_empty_classes_of_domains_are_found(squares_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(squares_folder, tmp_path / "d")
    (tmp_path / "d" / "dark" / "none").mkdir()
    assert empty_classes(tmp_path / "d", "domain") == ["dark/none"]
    assert empty_classes(tmp_path / "d", "class") == []


def test_check_fails_on_ambiguous_class_names_after_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("alarm_clock", "Alarm-Clock", "hot dog", "hot-dog", "Hot_Dog", "--", "n01440764", "cat"):
        (tmp_path / "d" / name).mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(tmp_path / "d" / name / "a.png")
    (tmp_path / "d" / "cat" / "b.png").write_text("no image")
    assert main(["data", "check", str(tmp_path / "d"), "--sheet", str(tmp_path / "s.png")]) == 2
    printed = capsys.readouterr()
    for expected in (
        "9 images, 1 domain(s), 8 class(es)",
        '"Alarm-Clock" = "alarm_clock"',
        '"Hot_Dog" = "hot dog" = "hot-dog"',
        '1 class names are empty to a model or not UTF-8: "--"',
        "1 class names look like ids",
        "cat/b.png: not an image",
        "To train, after fixing the class names:",
    ):
        assert expected in printed.out
    assert "--class-names FILE" in printed.err and (tmp_path / "s.png").is_file()
    with pytest.raises(UserError, match=r"and 2 more|number 0 is empty"):
        load_source(str(tmp_path / "d"))  # with the check of names, as in training
    names = tmp_path / "names.csv"
    names.write_text("--,dash\nAlarm-Clock,bell\nhot-dog,sausage\nHot_Dog,bun\n")
    arguments = ["data", "check", str(tmp_path / "d"), "--sheet", "None", "--class-names", str(names)]
    assert main(arguments) == 0
    assert "the same to a model" not in capsys.readouterr().out


def test_check_accepts_built_in_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
def test_data_command_names_invalid_input(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", *arguments]) == 2
    assert message in capsys.readouterr().err
