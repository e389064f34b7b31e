"""A SigLIP on the command line: train, evaluate, export, and what it cannot do."""

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
