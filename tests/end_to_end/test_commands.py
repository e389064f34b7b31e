"""Every command on real files, through `cli.main`, with a tiny backbone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

import clipalign
from clipalign.commands.cli import COMMANDS, main
from clipalign.evaluation.results import read_results
from clipalign.methods import get_method

METHODS = [name for name in clipalign.list_methods() if get_method(name).learns_from == "classes"]
PROTOCOLS = {"domain-shift": ["all"], "base-to-new": ["base", "new"], "in-the-wild": ["all", "base", "new"]}


@pytest.fixture
def common(tiny_spec: str, squares_folder: Path) -> list[str]:
    return ["--backbone", tiny_spec, "--data", str(squares_folder), "--steps", "3", "--batch-size", "6"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_spec: str, squares_folder: Path) -> Path:
    """A finished run of AlignCLIP in the wild."""
    out = tmp_path_factory.mktemp("runs") / "a"
    arguments = ["--backbone", tiny_spec, "--data", str(squares_folder), "--protocol", "in-the-wild"]
    arguments += ["--target", "grey", "--steps", "8", "--batch-size", "6", "--lr", "1e-3", "--out", str(out)]
    assert main(["train", *arguments]) == 0
    return out


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("method", METHODS)
def test_train_writes_a_row_per_test_set(
    method: str, protocol: str, common: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    target = [] if protocol == "base-to-new" else ["--target", "grey"]
    arguments = ["--method", method, "--protocol", protocol, *target, "--out", str(out), *common]
    assert main(["train", *arguments]) == 0
    rows = read_results(out)
    assert [row.test for row in rows] == PROTOCOLS[protocol]
    scored = {row.test for row in rows if row.reason is None}
    # In the wild every row is scored among names that a linear head was not trained on.
    assert scored or protocol == "in-the-wild"
    for row in rows:
        iterates = get_method(method).iterates
        assert (row.method, row.protocol, row.seed) == (method, protocol, 0)
        assert row.steps == (3 if iterates else 0)
        assert (row.accuracy is None) == (row.test not in scored)
        assert row.accuracy is None or (row.n > 0 and 0 <= row.accuracy <= 1)
        assert (row.h is not None) == ({"base", "new"} <= scored)
        assert row.zeroshot is None or (row.test == "new" and iterates)
    files = {path.name for path in out.iterdir()}
    wanted = {"config.yaml", "model.safetensors", "last.safetensors", "results.jsonl", "predictions.npz"}
    assert wanted <= files and "checkpoint" not in files
    assert "metrics.jsonl" in files or not get_method(method).iterates


def test_model_file_holds_the_average_and_last_file_the_last_step(trained: Path) -> None:
    model, last = load_file(trained / "model.safetensors"), load_file(trained / "last.safetensors")
    assert model.keys() == last.keys() and "visual.proj" in model and "token_embedding.weight" in model
    assert not torch.equal(model["visual.proj"].float(), last["visual.proj"].float())
    assert torch.equal(model["token_embedding.weight"], last["token_embedding.weight"])


def test_log_reports_forgetting_and_config_the_origins(trained: Path) -> None:
    text = (trained / "log.txt").read_text()
    assert "points on classes not trained (new)" in text
    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert config["record"]["resolved"]["aligned_layers"] == 1
    assert config["record"]["origins"]["lr"] == "command line"


def test_eval_reproduces_the_rows_of_the_run(trained: Path, squares_folder: Path, tmp_path: Path) -> None:
    arguments = ["--data", str(squares_folder), "--protocol", "in-the-wild", "--target", "grey"]
    assert main(["eval", str(trained), *arguments, "--out", str(tmp_path / "e")]) == 0
    for again, first in zip(read_results(tmp_path / "e"), read_results(trained), strict=True):
        same = "method backbone test n accuracy h split_hash label_space steps lr_from average top5"
        assert all(getattr(again, name) == getattr(first, name) for name in same.split())


def test_eval_without_a_protocol_scores_every_domain(
    trained: Path, tiny_spec: str, squares_folder: Path, tmp_path: Path
) -> None:
    for i, model in enumerate((str(trained), tiny_spec)):
        out = tmp_path / str(i)
        assert main(["eval", model, "--data", str(squares_folder), "--out", str(out)]) == 0
        rows = read_results(out)
        assert [row.test for row in rows] == ["dark", "grey", "light"]
        assert all(
            row.protocol is None and row.n == 20 and row.classes == 4 and row.h is None for row in rows
        )


def test_predict_prints_a_table(
    trained: Path, squares_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("red square\nblue square\nan old boat\n")
    image = squares_folder / "grey" / "red_square" / "0.png"
    for suffix in ("jpg", "webp"):
        Image.open(image).save(tmp_path / f"a.{suffix}")
    images = [str(image), str(tmp_path / "a.jpg"), str(tmp_path / "a.webp")]
    assert main(["predict", str(trained), *images, "--classes-file", str(names), "--topk", "2"]) == 0
    text = capsys.readouterr().out
    assert text.count("%") == 6 and "0.png" in text and "a.webp" in text
    assert main(["predict", str(trained), *images]) == 0
    assert "blue_square" in capsys.readouterr().out


def test_list_prints_names(capsys: pytest.CaptureFixture[str]) -> None:
    for what, name in (
        ("methods", "alignclip"),
        ("data", "pictograms"),
        ("backbones", "ViT-B-16:openai"),
        ("protocols", "in-the-wild"),
    ):
        assert main(["list", what]) == 0
        assert name in capsys.readouterr().out


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert clipalign.__version__ in capsys.readouterr().out
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)
    assert main([]) == 2
    assert capsys.readouterr().out == text


def test_python_api_gives_the_bytes_of_the_command(
    trained: Path, tiny_spec: str, squares_folder: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"backbone": tiny_spec, "data": squares_folder, "steps": 8, "batch_size": 6}
    options |= {"protocol": "in-the-wild", "target": "grey", "lr": 1e-3}
    run = clipalign.train(out=tmp_path / "run", method="alignclip", **options)
    assert [row.accuracy for row in run.results] == [row.accuracy for row in read_results(trained)]
    a, b = ((folder / "model.safetensors").read_bytes() for folder in (trained, tmp_path / "run"))
    assert a == b
    rows = clipalign.evaluate(tmp_path / "run", data=squares_folder, out=tmp_path / "e")
    assert len(rows) == 3
    image = squares_folder / "grey" / "red_square" / "0.png"
    (found,) = clipalign.predict(run.folder.path, [image], ["red square", "snow"], topk=1)
    assert len(found.classes) == 1 and found.probabilities[0] >= 0.5
    again = clipalign.load_run(trained, weights="last")
    assert again.class_names == run.class_names and again.method.name == "alignclip"


def test_config_file_of_a_run_repeats_it(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    assert main(["train", "--config", str(trained / "config.yaml"), "--out", str(out)]) == 0
    assert (out / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()


def test_resume_leaves_a_finished_run_unchanged(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (trained / "results.jsonl").read_bytes()
    assert main(["train", "--out", str(trained), "--resume"]) == 0
    assert (trained / "results.jsonl").read_bytes() == before
    assert "is finished" in capsys.readouterr().err


def test_overwrite_replaces_only_the_files_of_the_run(common: list[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ["train", "--method", "erm", "--target", "grey", "--out", str(out), *common]
    assert main(arguments) == 0
    (out / "notes.txt").write_text("mine")
    assert main([*arguments, "--seed", "1", "--overwrite"]) == 0
    assert read_results(out)[0].seed == 1 and (out / "notes.txt").read_text() == "mine"
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "lr" in line] == [3]


def test_predictions_file_gives_the_accuracy_of_the_rows(trained: Path) -> None:
    rows = {row.test: row for row in read_results(trained)}
    with np.load(trained / "predictions.npz", allow_pickle=False) as stored:
        for name, row in rows.items():
            right = stored[f"{name}/ranked"][:, 0] == stored[f"{name}/labels"]
            assert right.mean() == pytest.approx(row.accuracy) and len(right) == row.n
