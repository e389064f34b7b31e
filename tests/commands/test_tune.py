"""Tuning: search spaces, identical trials after kills, and no use of the outer test rows."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import clipalign
from clipalign.commands.cli import main
from clipalign.commands.tune.sampling import random_values, search_space, tpe_values
from clipalign.commands.tune.trials import Trial, best_trial, fold_score, read_trials
from clipalign.core.config import TrainConfig
from clipalign.core.errors import UserError
from clipalign.core.fields import options_of
from clipalign.core.search import Choice, LogUniform, Uniform
from clipalign.evaluation.results import ResultRow, read_results
from clipalign.methods import all_methods
from clipalign.runs.options import train_options_from


def arguments(backbone: str, data: Path, out: Path, *more: str) -> list[str]:
    tokens = ["tune", "--method", "erm", "--backbone", backbone, "--data", str(data), "--out", str(out)]
    tokens += ["--target", "grey", "--trials", "2", "--steps", "2", "--batch-size", "4"]
    return [*tokens, *more]


def numbers(out: Path) -> list[tuple[Any, ...]]:
    return [(t.number, t.values, t.score, t.scores) for t in read_trials(out).values()]


def test_tune_never_decodes_an_image_of_the_target(
    tiny_spec: str, squares_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = tmp_path / "squares", tmp_path / "out"
    shutil.copytree(squares_folder, data)
    for path in (data / "grey").rglob("*.png"):
        path.write_bytes(b"\x89PNG damaged")
    command = arguments(tiny_spec, data, out, "--protocol", "in-the-wild", "--batch-size", "3")
    assert main(command) == 0
    printed = capsys.readouterr()
    assert "best.yaml" in printed.out and "trial 2: " in printed.err
    trials = read_trials(out)
    assert set(trials) == {1, 2} and all(len(trial.scores) == 2 for trial in trials.values())
    for number, trial in trials.items():
        for k, score in enumerate(trial.scores, 1):
            folder = out / f"trial-{number}" / f"fold-{k}"
            rows = read_results(folder)
            assert score == rows[0].h and {row.target for row in rows} <= {"dark", "light"}
            assert [row.test for row in rows] == ["all", "base", "new"]
            assert not (folder / "model.safetensors").exists() and not (folder / "skipped.csv").exists()
            assert "grey" not in (folder / "split.json").read_text()
    with pytest.raises(UserError, match="do not decode"):  # training on the outer episode would
        clipalign.train("erm", data, tmp_path / "run", config=out / "best.yaml")


def test_best_values_train_once_on_the_whole_episode(
    tiny_spec: str, squares_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    more = ("--train", "--average", "none", "--protocol", "domain-shift")
    assert main(arguments(tiny_spec, squares_folder, out, *more)) == 0
    best = best_trial(read_trials(out).values())
    assert best is not None and set(best.values) == {"lr"}  # steps and average are given
    config = yaml.safe_load((out / "best.yaml").read_text())
    assert config["lr"] == best.values["lr"] and config["target"] == "grey" and "out" not in config
    row = read_results(out / f"train-trial-{best.number}")[0]
    assert (row.lr, row.target, row.steps, row.protocol) == (config["lr"], "grey", 2, "domain-shift")
    run = clipalign.train("erm", squares_folder, tmp_path / "again", config=out / "best.yaml")
    assert run.results[0].split_hash == row.split_hash and run.results[0].accuracy == row.accuracy


@pytest.mark.parametrize(("sampler", "folds"), [("random", 2), ("tpe", 1)])
def test_tune_killed_and_resumed_gives_the_same_trials(
    sampler: str,
    folds: int,
    tiny_spec: str,
    squares_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if sampler == "tpe":
        pytest.importorskip("optuna")
    more = ("--protocol", "domain-shift", "--sampler", sampler, "--folds", str(folds))
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main(arguments(tiny_spec, squares_folder, whole, *more)) == 0
    command = arguments(tiny_spec, squares_folder, broken, *more)
    process = multiprocessing.get_context("fork").Process(target=main, args=(command,))
    process.start()
    while process.is_alive() and not list(broken.rglob("results.jsonl")):
        time.sleep(0.005)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    time.sleep(0.5)
    assert len(list(broken.rglob("results.jsonl"))) < 2 * folds
    before = {path: path.stat().st_mtime_ns for path in broken.rglob("results.jsonl")}
    assert main(command) == 0
    assert before and all(path.stat().st_mtime_ns == time_ns for path, time_ns in before.items())
    assert numbers(broken) == numbers(whole)
    assert (broken / "best.yaml").read_text() == (whole / "best.yaml").read_text()

    capsys.readouterr()
    assert main([*command, "--weight-decay", "0.2"]) == 2
    assert "holds a search with weight-decay = 0.1, not 0.2" in capsys.readouterr().err


def test_invalid_input_is_an_error_before_anything_is_written(
    tiny_spec: str, squares_folder: Path, tmp_path: Path
) -> None:
    out, base = tmp_path / "out", {"backbone": tiny_spec, "target": "grey"}
    for method, options, message in (
        ("erm", {**base, "target": "mauve"}, 'no domain "mauve"'),
        ("erm", {**base, "stepz": 3}, "unknown option --stepz"),
        ("erm", {**base, "resume": True}, "--resume does not apply"),
        ("erm", {**base, "trials": 0}, "--trials must be at least 1"),
        ("erm", {**base, "steps": 2, "lr": 1e-4, "average": "none"}, "has no options to search"),
        ("zeroshot", base, "has no options to search"),
        ("infonce", {"backbone": tiny_spec}, "learns from captions"),
    ):
        with pytest.raises(UserError, match=message):
            clipalign.tune(method, squares_folder, out, **options)
        assert not out.exists()
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds no search"):
        clipalign.tune("erm", squares_folder, out, **base)


def test_failed_trial_is_recorded_and_others_count(
    tiny_spec: str, squares_folder: Path, tmp_path: Path
) -> None:
    options = {
        "backbone": tiny_spec,
        "target": "grey",
        "steps": 2,
        "batch_size": 4,
        "protocol": "in-the-wild",
    }
    with pytest.raises(UserError, match=r"all trials failed.* no accuracy on the test set"):
        clipalign.tune("erm-linear-head", squares_folder, tmp_path / "out", trials=1, folds=1, **options)
    (line,) = (tmp_path / "out" / "trials.jsonl").read_text().splitlines()
    assert json.loads(line)["score"] is None and "no accuracy" in json.loads(line)["error"]


@pytest.mark.parametrize("method", all_methods(), ids=lambda method: method.name)
def test_search_space_holds_valid_options(method: Any, tmp_path: Path) -> None:
    options = train_options_from({"method": method.name, "out": tmp_path})
    if not (method.iterates or method.search):
        with pytest.raises(UserError, match="has no options to search"):
            search_space(options, ())
        return
    space = search_space(options, ())
    assert space.keys() <= options_of(TrainConfig, method.Config).keys()
    for number in range(20):
        values = random_values(space, 0, number)
        train_options_from({"method": method.name, "out": tmp_path, **values})
        assert values == random_values(space, 0, number)
    if method.iterates:
        assert "lr" in space and "average" in space and {"steps", "epochs"} & space.keys()
    assert search_space(options, {"lr"}).keys() == space.keys() - {"lr"}


def test_methods_share_the_random_values_of_shared_options(tmp_path: Path) -> None:
    spaces = [
        search_space(train_options_from({"method": m, "out": tmp_path}), ()) for m in ("erm", "alignclip")
    ]
    erm, alignclip = (random_values(space, 3, 7) for space in spaces)
    assert erm.items() <= alignclip.items() or erm["lr"] == alignclip["lr"]


def test_samples_follow_their_distribution() -> None:
    generator = np.random.default_rng(0)
    rates = [LogUniform(1e-6, 1e-2).sample(generator) for _ in range(400)]
    assert all(1e-6 <= rate <= 1e-2 for rate in rates) and 0.4 < np.mean(np.array(rates) < 1e-4) < 0.6
    shares = [Uniform(0.2, 0.4).sample(generator) for _ in range(400)]
    assert all(0.2 <= share <= 0.4 for share in shares) and 0.29 < np.mean(shares) < 0.31
    assert {Choice((1, 2, "x")).sample(generator) for _ in range(40)} == {1, 2, "x"}


def test_tpe_proposes_values_near_the_best_earlier_trials() -> None:
    pytest.importorskip("optuna")
    space = {"lr": LogUniform(1e-6, 1e-2), "average": Choice(("none", "bma"))}
    earlier: list[Trial] = []
    for number in range(1, 31):
        values = tpe_values(space, 0, number, earlier)
        assert values == tpe_values(space, 0, number, earlier)
        score = 1 - abs(np.log10(float(values["lr"])) + 4) / 4 - 0.2 * (values["average"] == "none")  # type: ignore[arg-type]
        earlier.append(Trial(number, values, score, (score,)))
    distance = [abs(np.log10(float(trial.values["lr"])) + 4) for trial in earlier]  # type: ignore[arg-type]
    assert np.mean(distance[15:]) < np.mean(distance[:10])


def test_score_of_a_fold_is_h_or_the_mean_accuracy() -> None:
    def row(test: str, accuracy: float | None, h: float | None = None) -> ResultRow:
        return ResultRow("erm", "b", "d", "p", None, test, 0, 1, 10, accuracy, h, reason="linear head")

    assert fold_score([row("base", 0.9, 0.6), row("new", 0.45, 0.6)]) == 0.6
    assert fold_score([row("all", 0.7)]) == 0.7
    with pytest.raises(UserError, match='"new": linear head'):
        fold_score([row("base", 0.9), row("new", None)])
    trials = [Trial(1, {}, None, error="x"), Trial(2, {}, 0.5), Trial(3, {}, 0.5)]
    assert best_trial(trials) is trials[1] and best_trial(trials[:1]) is None
