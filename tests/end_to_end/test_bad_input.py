"""Invalid input ends with one line that names the option and exit code 2; no traceback, and nothing is written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from clipalign.commands.cli import main


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]):
    """Return a function that runs an invalid command and returns its error line."""

    def check(*arguments: object) -> str:
        assert main([str(argument) for argument in arguments]) == 2
        output = capsys.readouterr()
        lines = output.err.strip().splitlines()
        assert lines[-1].startswith("error: ") and "Traceback" not in output.err
        assert len([line for line in lines if line.startswith("error: ")]) == 1
        assert output.out == ""
        return lines[-1]

    return check


@pytest.fixture
def train(refused, tiny_spec: str, squares_folder: Path, tmp_path: Path):
    """Return a function that runs an invalid `clipalign train`, and returns its error line."""

    def check(**options: object) -> str:
        given = {"backbone": tiny_spec, "data": squares_folder, "target": "grey", "steps": 2, "batch_size": 4}
        given |= {"out": tmp_path / "out", "method": "erm", **options}
        out = Path(str(given["out"]))
        before = sorted(out.rglob("*")) if out.exists() else None
        tokens = [t for k, v in given.items() if v is not None for t in ("--" + k.replace("_", "-"), v)]
        message = refused("train", *tokens)
        assert (sorted(out.rglob("*")) if out.exists() else None) == before
        return message

    return check


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"method": "alignclipp"}, "--method"),
        ({"data": "pictogramms"}, "--data"),
        ({"target": "gray"}, "--target"),
        ({"target": None}, "--target"),
        ({"protocol": "domainshift"}, "--protocol"),
        ({"backbone": "ViT-B-17:openai"}, "--backbone"),
        ({"backbone": "ViT-B-16:openai2"}, "--backbone"),
        ({"backbone": "local-dir:nowhere"}, "--backbone"),
        ({"steps": 0}, "--steps"),
        ({"batch_size": 0}, "--batch-size"),
        ({"precision": "fp16", "device": "cpu"}, "--precision"),
        ({"device": "abacus"}, "--device"),
        ({"template": "no place"}, "--template"),
        ({"data_options": "background_bias=1"}, "--data-options"),
        ({"epsilon": 0.1}, "--epsilon"),
        ({"method": "alignclip", "guide": "vv"}, "vv"),
        ({"method": "alignclip", "dual_blocks": 9}, "--dual-blocks"),
        ({"method": "alignclip", "aligned_layers": 9}, "--aligned-layers"),
        ({"average": "swa"}, "--average"),
        ({"config": "nowhere.yaml"}, "--config"),
        ({"resume": "yes"}, "yes"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_invalid_option_of_train_is_named(train, options: dict[str, object], named: str) -> None:
    assert named in train(**options)


def test_folder_without_images_is_an_error(train, tmp_path: Path) -> None:
    (tmp_path / "data" / "class").mkdir(parents=True)
    assert "--data" in train(data=tmp_path / "data")


def test_ambiguous_class_names_are_an_error(train, tmp_path: Path) -> None:
    for domain in ("a", "grey"):
        for name in ("alarm_clock", "alarm-clock"):
            (tmp_path / "data" / domain / name).mkdir(parents=True)
            Image.new("RGB", (4, 4)).save(tmp_path / "data" / domain / name / "1.png")
    message = train(data=tmp_path / "data")
    assert "alarm_clock" in message and "alarm-clock" in message


def test_truncated_weights_file_is_named(train, tiny_spec: str, tmp_path: Path) -> None:
    folder = tmp_path / "backbone"
    shutil.copytree(tiny_spec.removeprefix("local-dir:"), folder)
    weights = folder / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "open_clip_model.safetensors" in train(backbone=f"local-dir:{folder}")


def test_existing_files_in_out_are_an_error(train, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("x")
    message = train()
    assert all(flag in message for flag in ("--out", "--overwrite", "--resume"))
    (tmp_path / "file").write_text("x")
    assert "--out" in train(out=tmp_path / "file")


def test_resume_with_other_options_is_an_error(
    train,
    refused,
    tiny_spec: str,
    squares_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    common = ["train", "--out", out, "--backbone", tiny_spec, "--data", squares_folder, "--target", "grey"]
    arguments = [*common, "--method", "erm", "--steps", 2, "--batch-size", 4]
    assert main([str(argument) for argument in arguments]) == 0
    capsys.readouterr()
    message = refused(*arguments, "--lr", "0.5", "--resume")
    assert "--resume" in message and "lr" in message and "0.5" in message
    assert "method" in refused(*common, "--resume", "--method", "zeroshot")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x").write_text("x")
    assert "--resume" in refused(*common[:1], "--out", tmp_path / "other", "--resume")
    # A run with a truncated weights file.
    model = out / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-100])
    assert "model.safetensors" in refused("eval", out, "--data", squares_folder, "--out", tmp_path / "e")
    assert not (tmp_path / "e").exists()


def test_invalid_input_of_eval_and_predict_is_named(
    refused, tiny_spec: str, squares_folder: Path, tmp_path: Path
) -> None:
    out = ("--out", tmp_path / "e")
    assert "ViT" in refused("eval", "ViT-B-17:openai", "--data", squares_folder, *out)
    assert "not a run" in refused("eval", tmp_path, "--data", squares_folder, *out)
    assert "--target" in refused("eval", tiny_spec, "--data", squares_folder, "--target", "grey", *out)
    assert "--out" in refused("eval", tiny_spec, "--data", squares_folder)
    assert not (tmp_path / "e").exists()
    image = squares_folder / "grey" / "red_square" / "0.png"
    assert "--classes-file" in refused("predict", tiny_spec, image)
    for i, content in enumerate(("", "cat\ncat\n", "cat\n\ndog\n", "cat\nCAT\n")):
        names = tmp_path / f"{i}.txt"
        names.write_text(content)
        assert "--classes-file" in refused("predict", tiny_spec, image, "--classes-file", names)
    names.write_text("cat\ndog\n")
    assert "nowhere.png" in refused("predict", tiny_spec, "nowhere.png", "--classes-file", names)
    assert f"{names.name} does not decode" in refused("predict", tiny_spec, names, "--classes-file", names)
    assert "--topk" in refused("predict", tiny_spec, image, "--classes-file", names, "--topk", 0)


def test_unknown_command_is_named(refused) -> None:
    assert "tarin" in refused("tarin")
    assert "modles" in refused("list", "modles")
