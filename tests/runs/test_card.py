from __future__ import annotations

from pathlib import Path

from clipalign.commands.cli import main
from clipalign.runs.card import licences, limits
from clipalign.runs.results import ResultRow


def test_every_run_says_what_it_is(tiny_spec: str, squares_folder: Path, tmp_path: Path) -> None:
    arguments = ["train", "--method", "erm", "--data", str(squares_folder), "--target", "grey"]
    arguments += ["--backbone", tiny_spec, "--steps", "1", "--batch-size", "4", "--protocol", "in-the-wild"]
    assert main([*arguments, "--out", str(tmp_path / "run")]) == 0
    text = (tmp_path / "run" / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: clipalign\n")
    for said in (
        "target grey left out",
        "| new |",
        "clipalign train --method erm",
        "say here under which terms",
    ):
        assert said in text, said
    assert "{" not in text.replace("{}", "")


def test_what_was_lost_is_a_limit() -> None:
    row = ResultRow("erm", "pocket", "d", "p", None, "new", 0, 5, 10, 0.25, zeroshot=0.5)
    found = limits({}, {"backbone": "pocket"}, [row])
    assert found[0] == "On classes that were not trained it lost 25.0 points (new)."
    assert "test vehicle" in found[1]


def test_runs_on_captions_show_recalls(
    tiny_spec: str, captions_csv: Path, squares_folder: Path, tmp_path: Path
) -> None:
    arguments = [
        "train",
        "--method",
        "infonce",
        "--data",
        str(captions_csv),
        "--data-root",
        str(squares_folder),
    ]
    arguments += [
        "--backbone",
        tiny_spec,
        "--steps",
        "1",
        "--batch-size",
        "4",
        "--out",
        str(tmp_path / "run"),
    ]
    assert main(arguments) == 0
    text = (tmp_path / "run" / "README.md").read_text()
    assert "text to image @1" in text and "| long |" in text and "Protocol: retrieval." in text
    assert "Trained classes" not in text and "None" not in text


def test_the_pocket_backbone_ships_at_any_size() -> None:
    found = licences({"data": "d"}, {"backbone": "pocket@96", "data": "pictoscenes"})
    assert len(found) == 2 and all("ships with clipalign" in term for term in found)
