"""A SigLIP and a ConvNeXt on the command line: train, evaluate, explain, export, and what they cannot do."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipalign.commands.cli import main
from tests.helpers.families import write_family


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_family("siglip", tmp_path_factory.mktemp("families") / "siglip")


def test_siglip_trains_evaluates_and_exports(
    siglip: str, squares_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", str(squares_folder), "--target", "grey"]
    for method in ("erm", "alignclip"):
        run = tmp_path / method
        options = ["--method", method, "--backbone", siglip, "--steps", "2", "--batch-size", "4"]
        assert main(["train", *data, *options, "--out", str(run)]) == 0
    assert (
        main(["export", str(tmp_path / "erm"), "--to", "open_clip", "--out", str(tmp_path / "exported")]) == 0
    )
    for model in (str(tmp_path / "alignclip"), f"local-dir:{tmp_path / 'exported'}"):
        assert main(["eval", model, *data[:2], "--out", str(tmp_path / "scores" / model[-8:])]) == 0
    capsys.readouterr()
    assert (
        main(["train", *data, "--method", "maple", "--backbone", siglip, "--out", str(tmp_path / "no")]) == 2
    )
    error = capsys.readouterr().err
    assert "--method maple needs text prompts" in error and "Traceback" not in error
    assert not (tmp_path / "no").exists()
    photo = next(squares_folder.rglob("*.png"))
    maps = tmp_path / "maps"
    assert (
        main(["explain", siglip, str(photo), "--text", "cat", "--rollout", "--html", "--out", str(maps)]) == 0
    )
    page = (maps / "explain.html").read_text(encoding="utf-8")
    assert "K-K-V" in page and "Q-Q-V" not in page  # its patches have no queries


def test_convnext_has_no_maps(
    squares_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = write_family("convnext", tmp_path / "convnext")
    data = ["--data", str(squares_folder), "--target", "grey"]
    options = ["--method", "erm", "--backbone", backbone, "--steps", "2", "--batch-size", "4"]
    assert main(["train", *data, *options, "--out", str(tmp_path / "runs" / "erm")]) == 0
    assert main(["report", str(tmp_path / "runs"), "--pictures", "2", "--out", str(tmp_path / "report")]) == 0
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "No pictures: an attention map needs image tokens" in text and "Accuracy" in text
    assert not (tmp_path / "report" / "pictures" / "maps.png").exists()
    capsys.readouterr()
    photo = next(squares_folder.rglob("*.png"))
    words = ["explain", backbone, str(photo), "--text", "cat", "--rollout", "--out", str(tmp_path / "maps")]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "needs image tokens" in error and "Traceback" not in error and not (tmp_path / "maps").exists()
