"""TensorBoard and W&B receive every value of metrics.jsonl and results.jsonl once, under the right tag."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from clipalign.commands import train as training
from clipalign.commands.cli import main
from clipalign.engine import writers
from clipalign.evaluation.results import read_results
from clipalign.runs.folder import RunFolder

FAKE = """
import json
class Error(Exception): pass
class Run:
    def __init__(self, settings):
        self.settings, self.summary, self.calls = settings, {}, []
        self.starting_step = STARTING_STEP
    def log(self, values, step): self.calls.append([step, values])
    def finish(self, exit_code):
        RUNS.append([self.settings, self.calls, self.summary, exit_code])
RUNS, STARTING_STEP = [], 0
def init(**settings):
    if settings["project"] == "offline": raise Error("no\\n network")
    return Run(settings)
"""


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A fake module `wandb` that records its runs."""
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "wandb.py").write_text(FAKE)
    monkeypatch.syspath_prepend(str(tmp_path / "fake"))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    import wandb

    yield wandb
    sys.modules.pop("wandb", None)


@pytest.fixture
def command(tiny_spec: str, squares_folder: Path, tmp_path: Path) -> list[str]:
    arguments = ["train", "--method", "erm", "--data", str(squares_folder), "--target", "grey"]
    arguments += ["--protocol", "in-the-wild", "--backbone", tiny_spec, "--batch-size", "4", "--lr", "1e-3"]
    arguments += ["--steps", "6", "--log-every", "1", "--validate-every", "2", "--checkpoint-every", "2"]
    return [*arguments, "--out", str(tmp_path / "run")]


def events(run: Path) -> Any:
    """TensorBoard's own reading of a run."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(run / "tensorboard"))
    found.Reload()
    return found


def curve(found: Any, tag: str) -> dict[int, float]:
    """Return step -> value, and check that steps are unique."""
    points = found.Scalars(tag)
    assert len({point.step for point in points}) == len(points)
    return {point.step: point.value for point in points}


def check_events(run: Path) -> None:
    """Compare the events with metrics.jsonl and results.jsonl."""
    found, lines = events(run), RunFolder(run).read_metrics()
    assert curve(found, "train/loss_ce") == pytest.approx({line["step"]: line["loss_ce"] for line in lines})
    assert curve(found, "train/lr") == pytest.approx({line["step"]: line["lr"] for line in lines})
    measured = {line["step"]: line["validation_accuracy"] for line in lines if "validation_accuracy" in line}
    assert curve(found, "validation/accuracy") == pytest.approx(measured) and list(measured) == [2, 4, 6]
    for row in read_results(run):
        assert curve(found, f"test/{row.test}/accuracy") == pytest.approx({6: row.accuracy})
        assert curve(found, f"test/{row.test}/domain/grey") == pytest.approx({6: row.domain_accuracy["grey"]})
    tests = {tag for tag in found.Tags()["scalars"] if tag.startswith("test/")}
    assert {tag.split("/")[1] for tag in tests} == {row.test for row in read_results(run)}
    assert "test/new/zeroshot" in tests and "test/all/zeroshot" not in tests


def test_tensorboard_reads_the_events_of_a_run(command: list[str], tmp_path: Path) -> None:
    assert main([*command, "--log-to", "tensorboard"]) == 0
    run = tmp_path / "run"
    check_events(run)
    plugin = events(run).SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"batch_size" in plugin and b"in-the-wild" in plugin
    assert main([*command, "--overwrite"]) == 0
    assert not (run / "tensorboard").exists()


class Stop(Exception):
    pass


def interrupted(command: list[str], monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Run a command that crashes after a step, without any cleanup."""
    whole = writers.Writers.line

    def line(self: writers.Writers, values: Any) -> None:
        whole(self, values)
        if values["step"] == after:
            raise Stop

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(writers.Writers, "line", line)
        main(command)


def test_resumed_run_has_each_step_once(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command += ["--log-to", "tensorboard"]
    interrupted(command, monkeypatch, after=5)  # the last checkpoint is that of step 4
    assert max(curve(events(tmp_path / "run"), "train/loss_ce")) == 5
    assert main([*command, "--resume"]) == 0
    check_events(tmp_path / "run")


def test_writer_can_be_added_on_resume(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(command, monkeypatch, after=5)
    assert main([*command, "--resume", "--log-to", "tensorboard"]) == 0
    check_events(tmp_path / "run")


def test_wandb_receives_config_metrics_and_results(command: list[str], tmp_path: Path, wandb: Any) -> None:
    assert main([*command, "--log-to", "wandb"]) == 0
    ((settings, calls, summary, code),) = wandb.RUNS
    run = tmp_path / "run"
    assert code == 0 and settings["project"] == "clipalign" and settings["dir"] == str(run)
    assert settings["config"]["lr"] == 1e-3 and settings["config"]["method"] == "erm"
    json.dumps(settings["config"])
    assert [step for step, _ in calls] == [1, 2, 3, 4, 5, 6]
    assert calls[1][1].keys() >= {"train/loss_ce", "validation/accuracy"}
    assert not any(tag.startswith("test/") for _, values in calls for tag in values)
    for row in read_results(run):
        assert summary[f"test/{row.test}/accuracy"] == row.accuracy
    assert summary["validation/final"] == read_results(run)[0].validation


def test_wandb_resumes_the_stored_run(
    command: list[str], tmp_path: Path, wandb: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    command += ["--log-to", "wandb"]
    interrupted(command, monkeypatch, after=5)
    wandb.STARTING_STEP = 4  # the server has steps 1 to 3
    assert main([*command, "--resume"]) == 0
    (first, *_, code), (second, calls, _, _) = wandb.RUNS
    assert code == 1 and first["id"] == second["id"] and second["resume"] == "allow"
    assert [step for step, _ in calls] == [4, 5, 6]


def test_missing_package_raises_before_files_are_written(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writers, "find_spec", lambda name: None)
    for name in ("tensorboard", "wandb"):
        assert main([*command, "--log-to", name]) == 2
        assert f'--log-to {name} needs pip install "clipalign[{name}]"' in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main([*command, "--log-to", "visdom"]) == 2
    assert "visdom" in capsys.readouterr().err


def test_wandb_without_network_suggests_offline_mode(
    command: list[str], wandb: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "offline")
    assert main([*command, "--log-to", "wandb"]) == 2
    assert "no network; log in with `wandb login`, or set WANDB_MODE=offline" in capsys.readouterr().err


def test_scalars_skip_nulls_and_non_numbers() -> None:
    line = {"step": 3, "loss_ce": None, "lr": 0.1, "chosen": {"alpha": 0.5, "sweep": [1, 2], "flag": True}}
    assert writers.scalars(line) == {"chosen/alpha": 0.5, "train/lr": 0.1}


def test_values_chosen_on_validation_have_their_own_tag(
    tiny_spec: str, squares_folder: Path, tmp_path: Path
) -> None:
    arguments = ["train", "--method", "tip-adapter", "--data", str(squares_folder), "--target", "grey"]
    arguments += ["--backbone", tiny_spec, "--log-to", "tensorboard", "--out", str(tmp_path / "run")]
    assert main(arguments) == 0
    tags = events(tmp_path / "run").Tags()["scalars"]
    assert any(tag.startswith("chosen/") for tag in tags) and "test/all/accuracy" in tags
    assert training.read_results(tmp_path / "run")
