"""`clipalign bench methods`: cost of a step of each method, measured on the same batch.

Each method runs in a new process, so that memory of one is not counted for another.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict

from ...core.checkpoint import write_text
from ...core.errors import UserError
from ...core.fields import options_of
from ...core.parsing import parse_config
from ...methods import get_method, list_methods
from ...report.markdown import pipe_table
from ...runs.folder import check_out
from ..study_options import BenchConfig
from .cost import Cost
from .machine import machine

BASELINE = "erm"
DASH = "–"
HEADS = ("method", "trained parameters", "step", "step / erm", "memory", "memory / erm", "predict / erm")


def run_bench(tokens: Sequence[str], prog: str = "clipalign bench") -> list[Cost]:
    """Measure the methods of a command line, print the table and return the costs."""
    config = parse_config(BenchConfig, tokens, prog)
    for name in config.methods:
        get_method(name)  # raises for unknown names
    if config.out is not None:
        check_out(config.out, overwrite=config.overwrite)
    names = config.methods or list_methods()
    methods = sorted(dict.fromkeys([*names, BASELINE]), key=lambda name: (name != BASELINE, name))
    tasks = [(method, guide) for method in methods for guide in guides_of(method, config.guides)]
    if config.guides and all(guide is None for _, guide in tasks):
        raise UserError("--guides: none of the methods has the option --guide; add alignclip to --methods")
    costs = []
    for backbone in config.backbones:
        for method, guide in tasks:
            print(f"{backbone}: {Cost(method, backbone, guide=guide).label}", file=sys.stderr, flush=True)
            costs.append(measure_in_process(method, backbone, config, guide))
    command = shlex.join(["clipalign", "bench", *tokens])
    text = markdown(costs, config, command)
    print(text)
    if config.out is not None:
        config.out.mkdir(parents=True, exist_ok=True)
        content = {"command": command, **machine(), "costs": [asdict(cost) for cost in costs]}
        write_text(config.out / "bench.json", json.dumps(content, indent=1) + "\n")
        write_text(config.out / "bench.md", text + "\n")
    return costs


def guides_of(method: str, guides: Sequence[str]) -> Sequence[str | None]:
    """Return the guides to measure a method with; [None] if it has no option --guide, or none were given."""
    return guides if guides and "guide" in options_of(get_method(method).Config) else [None]


def measure_in_process(method: str, backbone: str, config: BenchConfig, guide: str | None = None) -> Cost:
    """Measure a method in a new interpreter; if that fails, the cost holds the last line of its errors."""
    task: dict[str, object] = {"method": method, "backbone": backbone, "guide": guide}
    task |= {name: getattr(config, name) for name in ("steps", "batch_size", "classes", "device", "clock")}
    command = [sys.executable, "-m", "clipalign.commands.bench", json.dumps(task)]
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        return Cost(**json.loads(done.stdout.splitlines()[-1]))
    except (IndexError, ValueError, TypeError):
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return Cost(method, backbone, reason=last, guide=guide)


def markdown(costs: Sequence[Cost], config: BenchConfig, command: str) -> str:
    """Return a table per backbone, with costs relative to the baseline on the same backbone."""
    parts = []
    for backbone in config.backbones:
        mine = [cost for cost in costs if cost.backbone == backbone]
        base = next(cost for cost in mine if cost.method == BASELINE)
        parts.append(f"### {backbone}\n\n" + pipe_table(HEADS, [_line(cost, base) for cost in mine]))
        if reasons := [f"- {cost.label}: {cost.reason}" for cost in mine if cost.reason]:
            parts.append("\n".join(reasons))
    here = machine()
    parts.append(
        f"{config.batch_size} images and {config.classes} classes per step; median of {config.steps} steps; "
        f"{'wall' if config.clock == 'wall' else 'processor'} time; average and optimiser as published. "
        f"{DASH}: the method takes no steps. {here['machine']}, {here['threads']} threads, torch {here['torch']}."
    )
    parts.append(f"    {command}")
    return "\n\n".join(parts)


def _line(cost: Cost, base: Cost) -> tuple[str, ...]:
    """Return the cells of one method."""
    if cost.reason:
        return (cost.label, *[DASH] * (len(HEADS) - 1))
    return (
        cost.label,
        f"{cost.parameters:,}",
        DASH if cost.step is None else f"{1000 * cost.step:,.0f} ms",
        ratio(cost.step, base.step),
        DASH if cost.memory is None else f"{cost.memory / 2**20:,.0f} MiB",
        ratio(cost.memory, base.memory),
        ratio(cost.predict, base.predict),
    )


def ratio(value: float | None, base: float | None) -> str:
    """Format value / base, or a dash if either is missing.

    >>> ratio(3.0, 2.0), ratio(None, 2.0)
    ('1.50', '–')
    """
    return DASH if value is None or not base else f"{value / base:.2f}"
