"""Studies: expansion to runs, validation, shards, and identical results after kills."""

from __future__ import annotations

import multiprocessing
import os
import shlex
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from clipalign.commands.cli import main
from clipalign.commands.sweep import sweep
from clipalign.commands.sweep.run import part_of
from clipalign.commands.sweep.study import read_study
from clipalign.core.errors import UserError
from clipalign.evaluation.results import read_results


def write_study(path: Path, **study: Any) -> Path:
    path.write_text(yaml.safe_dump(study), encoding="utf-8")
    return path


def accuracies(out: Path) -> dict[str, Any]:
    """Return the numbers of all result rows, by run."""
    return {
        path.parent.relative_to(out).as_posix(): [
            (row.test, row.seed, row.n, row.accuracy, row.h, row.top5, row.zeroshot)
            for row in read_results(path)
        ]
        for path in sorted(out.rglob("results.jsonl"))
    }


def test_study_expands_to_all_combinations_with_zeroshot_once(squares_folder: Path, tmp_path: Path) -> None:
    study = write_study(
        tmp_path / "study.yaml",
        methods={"zeroshot": None, "erm": {"lr": 1e-3}, "alignclip": {}},
        data=[{"data": str(squares_folder), "name": "squares", "targets": "all"}],
        protocol=["domain-shift", "in-the-wild"],
        seeds=[3, 5],
        options={"steps": 2, "lr": 1e-5, "attention_weight": 0.1},
        grid={"batch_size": [4, 8]},
    )
    study.write_text(study.read_text().replace("attention_weight", alignclip_option()))
    jobs = read_study(study)
    # 3 targets x 2 protocols x (2 methods x 2 seeds x 2 batch sizes + zero-shot once)
    assert len(jobs) == 3 * 2 * (2 * 2 * 2 + 1) == len({job.name for job in jobs})
    erm = next(job for job in jobs if job.name == "squares/in-the-wild/grey/erm,batch_size=8/seed-5")
    assert erm.options["lr"] == 1e-3 and alignclip_option() not in erm.options
    align = next(job for job in jobs if job.method == "alignclip")
    assert align.options["lr"] == 1e-5 and align.options[alignclip_option()] == 0.1
    zeroshot = [job for job in jobs if job.method == "zeroshot"]
    assert len(zeroshot) == 6 and {job.seed for job in zeroshot} == {3}


def test_names_and_pooling_of_a_study_apply_to_zeroshot(squares_folder: Path, tmp_path: Path) -> None:
    options = {"names": "paper", "pooling": "patches", "lr": 1e-3}
    study = write_study(
        tmp_path / "s.yaml", methods="zeroshot", data=str(squares_folder), targets=["grey"], options=options
    )
    (job,) = read_study(study)
    assert {**job.options, "names": "paper", "pooling": "patches"} == job.options and "lr" not in job.options


def test_study_may_list_a_method_under_two_labels(squares_folder: Path, tmp_path: Path) -> None:
    methods = {"alignclip": None, "no-smoothing": {"method": "alignclip", "smoothing": "none"}}
    study = write_study(
        tmp_path / "study.yaml", methods=methods, data=str(squares_folder), targets=["grey"], seeds=1
    )
    plain, other = read_study(study)
    assert plain.name.endswith("/alignclip/seed-0") and other.name.endswith("/no-smoothing/seed-0")
    assert other.method == "alignclip" and other.options["smoothing"] == "none"
    assert "smoothing" not in plain.options


def test_default_protocol_follows_what_the_method_learns_from(squares_folder: Path, tmp_path: Path) -> None:
    study = write_study(
        tmp_path / "study.yaml",
        methods=["erm", "infonce"],
        data=str(squares_folder),
        targets=["grey"],
        seeds=1,
    )
    assert {job.method: job.options["protocol"] for job in read_study(study)} == {
        "erm": "domain-shift",
        "infonce": "retrieval",
    }


def alignclip_option() -> str:
    """Return a numeric option that alignclip has and erm lacks."""
    from dataclasses import fields

    from clipalign.methods import get_method

    erm = {f.name for f in fields(get_method("erm").Config)}
    return next(
        f.name for f in fields(get_method("alignclip").Config) if "float" in str(f.type) and f.name not in erm
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": ["ermm"]}, "ermm"),
        ({"option": {}}, "unknown option --option; did you mean --options"),
        ({"options": {"stepz": 3}}, r"options: unknown option --stepz; did you mean --steps"),
        ({"options": {"seed": 3}}, "seed is set by the sweep"),
        ({"grid": {"lr": []}}, "grid: lr has no values"),
        ({"methods": {"erm": {"tau": 1}}}, "methods: erm"),
        ({"options": {"steps": "many"}}, "steps"),
    ],
)
def test_invalid_study_raises_before_any_run(
    squares_folder: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    good: dict[str, Any] = {"methods": ["erm"], "data": str(squares_folder), "targets": ["grey"]}
    study = write_study(tmp_path / "study.yaml", **{**good, **change})
    with pytest.raises(UserError, match=message):
        sweep(study, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_shards_partition_the_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = write_study(
        tmp_path / "s.yaml", methods=["zeroshot", "erm"], targets=["noto", "twemoji"], seeds=3
    )
    jobs = read_study(study)
    parts = [jobs[k - 1 :: n] for k, n in (part_of("1/3"), part_of("2/3"), part_of("3/3"))]
    assert sorted(job.name for part in parts for job in part) == sorted(job.name for job in jobs)
    for wrong in ("0/3", "4/3", "3", "a/b"):
        with pytest.raises(UserError, match="--shard must be K/N"):
            part_of(wrong)
    arguments = ["sweep", "--config", str(study), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--slurm", "4"]) == 0
    script = capsys.readouterr().out
    assert script.startswith("#!/bin/bash\n") and "#SBATCH --array=1-4\n" in script
    assert '--shard "${SLURM_ARRAY_TASK_ID}/4"' in script
    assert not (tmp_path / "out").exists()


def test_sweep_killed_twice_and_resumed_gives_the_same_results(
    tiny_spec: str, squares_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = write_study(
        tmp_path / "study.yaml",
        methods={"zeroshot": {}, "erm": {}, "alignclip": {}},
        data={"data": str(squares_folder), "name": "squares"},
        protocol="in-the-wild",
        targets=["grey"],
        seeds=2,
        options={"backbone": tiny_spec, "steps": 6, "batch_size": 4, "lr": 1e-3, "checkpoint_every": 2},
    )
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for job in read_study(study):  # the reference: each run by its own command
        assert main(shlex.split(job.command(whole))[1:]) == 0

    arguments = ["sweep", "--config", str(study), "--out", str(broken)]
    for stop in (1, 3):  # kill the sweep as soon as so many runs are finished
        # Forked to save the imports; workers are new processes all the same.
        process = multiprocessing.get_context("fork").Process(target=main, args=(arguments,))
        process.start()
        while process.is_alive() and len(list(broken.rglob("results.jsonl"))) < stop:
            time.sleep(0.005)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)  # not its worker, which has to notice
        process.join()
        time.sleep(0.5)
        assert len(list(broken.rglob("results.jsonl"))) < 5
    before = {path: path.stat().st_mtime_ns for path in broken.rglob("results.jsonl")}
    assert main(arguments) == 0
    assert before and all(path.stat().st_mtime_ns == time_ns for path, time_ns in before.items())
    assert accuracies(broken) == accuracies(whole)
    models = list(whole.rglob("model.safetensors"))
    assert len(models) == 5
    for path in models:
        assert (broken / path.relative_to(whole)).read_bytes() == path.read_bytes()
    capsys.readouterr()
    assert main(arguments) == 0  # all runs are finished: only the table is printed
    assert "alignclip" in capsys.readouterr().out

    study.write_text(study.read_text().replace("steps: 6", "steps: 7"))
    assert main(arguments) == 2
    assert "was started with steps = 6, not 7" in capsys.readouterr().err


def test_failing_run_does_not_stop_the_others(
    tiny_spec: str, squares_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = write_study(
        tmp_path / "study.yaml",
        methods=["zeroshot"],
        data={"data": str(squares_folder), "name": "squares"},
        targets=["mauve", "grey"],
        options={"backbone": tiny_spec},
    )
    with pytest.raises(SystemExit) as stop:
        main(["sweep", "--config", str(study), "--out", str(tmp_path / "out")])
    assert stop.value.code == 1
    printed = capsys.readouterr().out
    assert "failed: squares/domain-shift/mauve/zeroshot/seed-0" in printed and "grey" in printed
    assert list(accuracies(tmp_path / "out")) == ["squares/domain-shift/grey/zeroshot/seed-0"]
