from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from clipalign.commands.eval import EvalConfig
from clipalign.commands.predict import PredictConfig
from clipalign.core.errors import UserError
from clipalign.core.parsing import parse_config, split_tokens
from clipalign.core.yaml_files import dump_yaml
from clipalign.runs import options as opt
from clipalign.runs.options import train_options


@pytest.fixture
def pocket_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Set measured defaults of erm on the pocket backbone."""
    path = tmp_path / "shipped.yaml"
    path.write_text("lr: 1e-4\nsteps: 600\n")
    monkeypatch.setattr(opt, "shipped_config", lambda backbone, method: path if method == "erm" else None)
    return path


def test_later_layers_win_and_are_recorded(pocket_defaults: Path, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("batch-size: 12\nsteps: 20\nmethod: erm\nout: runs/x\n")
    found = train_options(["--config", str(config), "--steps", "7"])
    assert (
        found.config.schedule.steps,
        found.config.optimiser.batch_size,
        found.config.optimiser.lr,
        found.config.optimiser.weight_decay,
    ) == (7, 12, 1e-4, 0.1)
    assert found.config.run.out == Path("runs/x")
    assert found.origins["steps"] == "command line"
    assert found.origins["batch_size"] == str(config)
    assert found.origins["lr"] == "configs/pocket/erm.yaml"
    assert found.origins["weight_decay"] == "published"
    assert "seed" not in found.origins


def test_pocket_defaults_apply_to_the_pocket_backbone_only(pocket_defaults: Path) -> None:
    found = train_options(["--method", "erm", "--backbone", "ViT-B-16:openai", "--out", "x"])
    assert found.config.optimiser.lr == 5e-6
    assert found.origins["lr"] == "published"


def test_options_include_those_of_the_method() -> None:
    found = train_options(["--method=alignclip", "--epsilon", "0.2", "--out=x", "--temperature", "None"])
    assert found.hyper.epsilon == 0.2 and found.hyper.temperature is None
    assert found.flat()["epsilon"] == 0.2 and found.flat()["out"] == "x"


def test_option_of_another_method_is_an_error_that_names_it() -> None:
    with pytest.raises(UserError, match=r"--epsilon is an option of --method alignclip.*not apply"):
        train_options(["--method", "erm", "--epsilon", "0.2", "--out", "x"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stps", "3", "--out", "x"], "unknown option --stps; did you mean --steps"),
        (["--steps", "many", "--out", "x"], "--steps.*many"),
        (["--steps", "0", "--out", "x"], "--steps must be at least 1, not 0"),
        (["--lr", "nan", "--out", "x"], "--lr must be at least 0"),
        (["--schedule", "linear", "--out", "x"], "--schedule.*linear"),
        (["--method", "alignclp", "--out", "x"], "did you mean alignclip"),
        (["--resume", "--overwrite", "--out", "x"], "exclude each other"),
        (["--epsilon", "2", "--out", "x"], "--epsilon"),
        (["--steps", "--out", "x"], "--steps"),
        ([], "--out is missing"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["stray", "--out", "x"], "stray"),
    ],
)
def test_error_is_one_line_that_names_the_option(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        train_options(arguments)
    assert "\n" not in str(caught.value) and "│" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("batchsize: 3", "did you mean --batch-size"),
        ("steps: soon", "soon"),
        ("- steps", "option: value"),
        ("steps: [1", "not valid YAML"),
        ("epsilon: 0.1\nmethod: erm", "not apply to --method erm"),
    ],
)
def test_error_in_a_config_file_names_the_file(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        train_options(["--config", str(path), "--out", "x"])
    assert "c.yaml" in str(caught.value)


def test_written_config_is_read_as_the_same_options(tmp_path: Path) -> None:
    given = ["--template", "a {}.", "the {}.", "--lr", "1e-5", "--margin", "0.3", "--keep-mlp", "--out", "x"]
    first = train_options(given)
    path = tmp_path / "c.yaml"
    path.write_text(dump_yaml({**first.flat(), "record": {"note": "not an option"}}))
    second = train_options(["--config", str(path)])
    assert second.flat() == first.flat()
    assert yaml.safe_load(path.read_text())["lr"] == 1e-5


def test_help_lists_options_of_run_and_method(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train_options(["--help"])
    text = capsys.readouterr().out
    assert "--batch-size" in text and "--aligned-layers" in text and "Images per step" in text


def test_positional_arguments_and_options_are_parsed_together(tmp_path: Path) -> None:
    config = parse_config(EvalConfig, ["runs/a", "--out", "o"], "eval")
    assert (config.model, config.out) == ("runs/a", Path("o"))
    config = parse_config(PredictConfig, ["runs/a", "1.png", "2.png", "--topk", "3"], "predict")
    assert config.images == (Path("1.png"), Path("2.png")) and config.topk == 3
    with pytest.raises(UserError, match="--tpok"):
        parse_config(PredictConfig, ["runs/a", "1.png", "--tpok", "3"], "predict")
    path = tmp_path / "c.yaml"
    path.write_text("out: o\ndata: faces\n")
    assert parse_config(EvalConfig, ["m", "--config", str(path)], "eval").data.data == "faces"


def test_tokens_are_grouped_by_option() -> None:
    assert split_tokens(["a", "--x", "-1", "2", "--no-y", "--z=3", "--", "--b"]) == (
        ["a", "--b"],
        [("x", ["--x", "-1", "2"]), ("y", ["--no-y"]), ("z", ["--z=3"])],
    )
