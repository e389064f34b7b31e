"""Costs of methods, and the table of them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clipalign.commands.bench import BenchConfig, run_bench
from clipalign.commands.bench import run as command
from clipalign.commands.bench.cost import Cost
from clipalign.commands.bench.measure import measure
from clipalign.commands.bench.run import markdown, measure_in_process
from clipalign.core.errors import UserError

FEW = {"steps": 1, "batch_size": 8, "classes": 4, "device": "cpu", "clock": "cpu"}


def test_measure_of_training_method_has_step_memory_and_prediction(tiny_spec: str) -> None:
    cost = measure("clip-adapter", tiny_spec, **FEW)  # type: ignore[arg-type]
    assert cost.parameters == 24 * 24 // 2
    assert cost.step is not None and cost.predict is not None and cost.step > 0 and cost.predict > 0
    assert cost.memory is not None and cost.reason is None


def test_measure_of_caption_method_has_step_and_prediction(tiny_spec: str) -> None:
    cost = measure("infonce", tiny_spec, steps=1, batch_size=2, classes=3, device="cpu", clock="wall")
    assert cost.reason is None and cost.step and cost.predict and cost.parameters > 1000


def test_measure_of_training_free_method_has_prediction_only(tiny_spec: str) -> None:
    cost = measure("zeroshot", tiny_spec, **FEW)  # type: ignore[arg-type]
    assert cost.parameters == 0 and cost.step is None and cost.predict is not None


def test_measure_in_process_returns_the_cost(tiny_spec: str) -> None:
    cost = measure_in_process("erm", tiny_spec, BenchConfig("methods", **FEW))  # type: ignore[arg-type]
    assert cost.reason is None and cost.step is not None and cost.parameters > 10_000


def test_failed_process_gives_its_last_error_as_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: Any, **__: Any) -> SimpleNamespace:
        return SimpleNamespace(stdout="hello\n", stderr="Traceback\nMemoryError: too large\n", returncode=1)

    monkeypatch.setattr(command.subprocess, "run", run)
    cost = measure_in_process("erm", "pocket", BenchConfig("methods"))
    assert cost.step is None and cost.reason == "MemoryError: too large"
    with pytest.raises(UserError, match="no-such-backbone"):
        measure("erm", "no-such-backbone", **FEW)  # type: ignore[arg-type]


def test_bench_writes_a_table_relative_to_erm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def pretend(method: str, backbone: str, config: BenchConfig, guide: str | None) -> Cost:
        if method == "maple":
            return Cost(method, backbone, reason="works on vit towers")
        step = {"erm": 2.0, "coral": 3.0}.get(method)
        return Cost(method, backbone, 7, step, 2**20 * (4 if method == "erm" else 6), 1.0)

    monkeypatch.setattr(command, "measure_in_process", pretend)
    out = tmp_path / "bench"
    arguments = [
        "methods",
        "--methods",
        "coral",
        "tip-adapter",
        "maple",
        "--backbones",
        "b",
        "--out",
        str(out),
    ]
    costs = run_bench(arguments)
    assert [cost.method for cost in costs] == ["erm", "coral", "maple", "tip-adapter"]
    text = (out / "bench.md").read_text()
    assert text.strip() == capsys.readouterr().out.strip()
    assert "| coral | 7 | 3,000 ms | 1.50 | 6 MiB | 1.50 | 1.00 |" in text
    assert "| tip-adapter | 7 | – | – | 6 MiB | 1.50 | 1.00 |" in text
    assert "| maple | – |" in text and "- maple: works on vit towers" in text
    stored = json.loads((out / "bench.json").read_text())
    assert stored["costs"][1]["step"] == 3.0 and stored["command"].startswith("clipalign bench methods")
    with pytest.raises(UserError, match="--out"):
        run_bench(arguments)


def test_bench_measures_each_guide(monkeypatch: pytest.MonkeyPatch) -> None:
    def pretend(method: str, backbone: str, config: BenchConfig, guide: str | None) -> Cost:
        return Cost(method, backbone, 7, {"vvv": 6.0}.get(guide or "", 2.0), 2**20, 1.0, guide=guide)

    monkeypatch.setattr(command, "measure_in_process", pretend)
    arguments = ["methods", "--methods", "alignclip", "--guides", "dv", "vvv", "--backbones", "b"]
    costs = run_bench(arguments)
    assert [cost.label for cost in costs] == ["erm", "alignclip --guide dv", "alignclip --guide vvv"]
    text = markdown(costs, BenchConfig("methods", backbones=("b",)), "x")
    assert "| alignclip --guide dv | 7 | 2,000 ms | 1.00 |" in text
    assert "| alignclip --guide vvv | 7 | 6,000 ms | 3.00 |" in text


def test_measure_uses_the_guide(tiny_spec: str) -> None:
    cost = measure("alignclip", tiny_spec, guide="vvv", **FEW)  # type: ignore[arg-type]
    assert cost.step is not None and cost.label == "alignclip --guide vvv"
    with pytest.raises(UserError, match='guide structure "xyz"'):
        measure("alignclip", tiny_spec, guide="xyz", **FEW)  # type: ignore[arg-type]


def test_invalid_options_raise() -> None:
    for arguments, message in [
        (["methods", "--methods", "coral", "--guides", "vvv"], "none of the methods has the option --guide"),
        (["methods", "--methods", "coop-2"], "--method"),
        (["methods", "--steps", "0"], "--steps"),
        (["speed"], "methods"),
    ]:
        with pytest.raises(UserError, match=message):
            run_bench(arguments)


def test_ratio_without_baseline_is_a_dash() -> None:
    config = BenchConfig("methods", backbones=("b",))
    text = markdown([Cost("erm", "b", reason="broken"), Cost("coral", "b", 7, 1.0, 1, 1.0)], config, "x")
    assert "| coral | 7 | 1,000 ms | – |" in text and "- erm: broken" in text
