from __future__ import annotations

from pathlib import Path

import pytest

from clipalign.commands.cli import main


@pytest.mark.parametrize("average", ["none", "swad"])
def test_dry_run_prints_the_plan_and_writes_nothing(
    average: str,
    tiny_spec: str,
    squares_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--method", "erm", "--backbone", tiny_spec, "--data", str(squares_folder), "--batch-size", "4"]
    tokens = ["train", *options, "--protocol", "holdout", "--average", average, "--dry-run"]
    assert main([*tokens, "--steps", "1000", "--checkpoint-every", "1"]) == 0
    text = capsys.readouterr().out
    for expected in (
        "holdout: ",
        "split: 70/10/20 per class, split seed 0",
        'test set "all": ',
        "trained parameters, 1000 steps of 4 images",
        "GiB, the peak of",
        "for 1000 steps",
        "nothing was written",
    ):
        assert expected in text
    assert list(tmp_path.iterdir()) == []
    assert main([*tokens, "--steps", "1"]) == 0  # fewer steps than are timed
    (tmp_path / "used").touch()
    assert main([*tokens, "--out", str(tmp_path)]) == 2
    assert "--resume or --overwrite" in capsys.readouterr().err


def test_dry_run_of_a_method_that_does_not_iterate(
    tiny_spec: str, squares_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--backbone", tiny_spec, "--data", str(squares_folder), "--protocol", "holdout"]
    assert main(["train", "--method", "zeroshot", *options, "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "does not iterate\n" in text and "--steps" not in text and "memory:" not in text
