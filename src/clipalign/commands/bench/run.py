"""`clipalign bench methods`: what a step of each method costs, side by side in one run.

Every method runs in a process of its own, on the same batch, so that no memory is counted twice.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from ...core.checkpoint import write_text
from ...core.config import Options, facts
from ...core.errors import UserError
from ...core.parsing import parse_config
from ...methods import get_method, list_methods
from ...runs.folder import check_out
from .cost import Cost
from .machine import machine

BASELINE = "erm"


@dataclass(frozen=True)
class BenchConfig(Options):
    """Time a few optimiser steps of each method, with the options it was published with."""

    what: Literal["methods"] = field(metadata=facts(positional=True))
    """methods."""
    methods: tuple[str, ...] = field(default=(), metadata=facts(unit="NAME", unset="all"))
    """Names of methods."""
    backbones: tuple[str, ...] = field(
        default=("pocket:random", "ViT-B-16:random"), metadata=facts(unit="MODEL")
    )
    """Backbones as in `clipalign train`. Cost does not depend on the weights."""
    steps: int = field(default=3, metadata=facts(unit="STEPS", at_least=1))
    """Steps timed per method, after a warm-up step."""
    batch_size: int = field(default=8, metadata=facts(unit="IMAGES", at_least=1))
    """Images per step, the same for every method."""
    classes: int = field(default=50, metadata=facts(unit="COUNT", at_least=1))
    """Number of classes. Matters to methods that run the text tower in every step."""
    device: str = field(default="auto", metadata=facts(unit="DEVICE"))
    """auto, cpu, cuda or cuda:N."""
    clock: Literal["wall", "cpu"] = "wall"
    """wall: elapsed time; cpu: processor time of the process. The latter suits a shared machine."""
    out: Path | None = field(default=None, metadata=facts(unit="DIR"))
    """Folder for bench.json and bench.md. Must be new or empty without --overwrite."""
    overwrite: bool = False
    """Replace the results in --out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.methods:
            get_method(name)
        if not self.backbones:
            raise UserError("--backbones: name at least one")


def run_bench(tokens: Sequence[str], prog: str = "clipalign bench") -> list[Cost]:
    """Measure as a command line says, print the table and return its rows."""
    config = parse_config(BenchConfig, tokens, prog)
    if config.out is not None:
        check_out(config.out, overwrite=config.overwrite)
    names = config.methods or list_methods()
    order = sorted(dict.fromkeys([*names, BASELINE]), key=lambda name: (name != BASELINE, name))
    costs = []
    for backbone in config.backbones:
        for method in order:
            print(f"{backbone}: {method}", file=sys.stderr, flush=True)
            costs.append(in_own_process(method, backbone, config))
    command = shlex.join(["clipalign", "bench", *tokens])
    text = markdown(costs, config, command)
    print(text)
    if config.out is not None:
        config.out.mkdir(parents=True, exist_ok=True)
        facts = {"command": command, **machine(), "costs": [asdict(cost) for cost in costs]}
        write_text(config.out / "bench.json", json.dumps(facts, indent=1) + "\n")
        write_text(config.out / "bench.md", text + "\n")
    return costs


def in_own_process(method: str, backbone: str, config: BenchConfig) -> Cost:
    """`measure` in a fresh interpreter."""
    task = {"method": method, "backbone": backbone}
    task |= {name: getattr(config, name) for name in ("steps", "batch_size", "classes", "device", "clock")}
    command = [sys.executable, "-m", "clipalign.commands.bench", json.dumps(task)]
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        return Cost(**json.loads(done.stdout.splitlines()[-1]))
    except (IndexError, ValueError, TypeError):
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return Cost(method, backbone, reason=last)


def markdown(costs: Sequence[Cost], config: BenchConfig, command: str) -> str:
    """A table per backbone, relative to erm on it."""
    parts = []
    for backbone in config.backbones:
        mine = [cost for cost in costs if cost.backbone == backbone]
        base = next(cost for cost in mine if cost.method == BASELINE)
        lines = [
            f"### {backbone}",
            "",
            "| method | trained parameters | step | step / erm | memory | memory / erm | predict / erm |",
            "| --- | --: | --: | --: | --: | --: | --: |",
        ]
        for cost in mine:
            if cost.reason:
                lines.append(f"| {cost.method} | – | – | – | – | – | – |")
                continue
            cells = (
                f"{cost.parameters:,}",
                "–" if cost.step is None else f"{1000 * cost.step:,.0f} ms",
                ratio(cost.step, base.step),
                "–" if cost.memory is None else f"{cost.memory / 2**20:,.0f} MiB",
                ratio(cost.memory, base.memory),
                ratio(cost.predict, base.predict),
            )
            lines.append(f"| {cost.method} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
        reasons = [f"{cost.method}: {cost.reason}" for cost in mine if cost.reason]
        if reasons:
            parts.append("\n".join(f"- {reason}" for reason in reasons))
    facts = machine()
    parts.append(
        f"{config.batch_size} images and {config.classes} classes per step; median of {config.steps} steps; "
        f"{'wall' if config.clock == 'wall' else 'processor'} time; average and optimiser as published. "
        f"–: the method takes no steps. {facts['machine']}, {facts['threads']} threads, torch {facts['torch']}."
    )
    parts.append(f"    {command}")
    return "\n\n".join(parts)


def ratio(value: float | None, base: float | None) -> str:
    """value / base as a table shows it."""
    return "–" if value is None or not base else f"{value / base:.2f}"
