"""`clipalign bench methods`: what a step of each method costs, side by side in one run.

Every method runs in a process of its own, on the same batch, so that no memory is counted twice.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from .checkpoint import write_text
from .config import at_least
from .errors import UserError
from .options import parse_config, train_options
from .runs import check_out

if TYPE_CHECKING:
    from .backbone import Backbone
    from .protocols import Episode

BASELINE = "erm"


@dataclass(frozen=True)
class BenchConfig:
    """Time a few optimiser steps of each method, with the options it was published with."""

    what: Positional[Literal["methods"]]
    """What is measured."""
    methods: tuple[str, ...] = ()
    """Names of methods. Default: all."""
    backbones: tuple[str, ...] = ("pocket:random", "ViT-B-16:random")
    """Backbones as in `clipalign train`; weights do not matter here."""
    steps: int = 3
    """Steps timed per method, after one that is not."""
    batch_size: int = 8
    """Images per step, the same for every method."""
    classes: int = 50
    """Number of classes; matters to methods that run the text tower in every step."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    clock: Literal["wall", "cpu"] = "wall"
    """wall: time that passed, for an idle machine. cpu: processor time of the process, for a shared one."""
    out: Path | None = None
    """Folder for bench.json and bench.md. Must be new or empty, unless --overwrite is given."""
    overwrite: bool = False
    """Replace the results in --out."""

    def check(self) -> None:
        """Raise UserError for the first value out of range, or an unknown method."""
        from .methods import get_method

        at_least(self, 1, "steps", "batch_size", "classes")
        for name in self.methods:
            get_method(name)
        if not self.backbones:
            raise UserError("--backbones: name at least one")


@dataclass(frozen=True)
class Cost:
    """What one method costs on one backbone.

    Attributes:
        parameters: trained ones.
        step: median seconds of an optimiser step; None where the method takes none.
        memory: most bytes held during the steps (during a prediction where there are none), the model's own
            included: of the GPU, or resident ones of the process beyond those before the model was loaded.
        predict: median seconds of a prediction for the same images.
        reason: why nothing was measured.
    """

    method: str
    backbone: str
    parameters: int = 0
    step: float | None = None
    memory: int | None = None
    predict: float | None = None
    reason: str | None = None


def run_bench(arguments: Sequence[str], prog: str = "clipalign bench") -> list[Cost]:
    """Measure as the tokens of a command line say, print the table and return its lines."""
    from .methods import list_methods

    config = parse_config(BenchConfig, arguments, prog)
    if config.out is not None:
        check_out(config.out, overwrite=config.overwrite)
    names = config.methods or list_methods()
    order = sorted(dict.fromkeys([*names, BASELINE]), key=lambda name: (name != BASELINE, name))
    costs = []
    for backbone in config.backbones:
        for method in order:
            print(f"{backbone}: {method}", file=sys.stderr, flush=True)
            costs.append(in_own_process(method, backbone, config))
    command = shlex.join(["clipalign", "bench", *arguments])
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
    command = [sys.executable, "-m", "clipalign.bench", json.dumps(task)]
    done = subprocess.run(command, capture_output=True, text=True)
    try:
        return Cost(**json.loads(done.stdout.splitlines()[-1]))
    except (IndexError, ValueError, TypeError):
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return Cost(method, backbone, reason=last)


def measure(
    method: str, backbone: str, *, steps: int, batch_size: int, classes: int, device: str, clock: str
) -> Cost:
    """Time one method in this process.

    Raises:
        UserError: the method does not work on this backbone.
    """
    import torch

    from .averaging import make_average
    from .backbone import load
    from .data.batches import Steps
    from .optimiser import build_optimizer
    from .precision import select_device
    from .training import preprocess_for

    place = select_device(device)
    episode = first_classes(classes)
    warm_up(load("pocket:random", place))
    before = resident()
    tower = load(backbone, place)
    # "unused" is never written: nothing here makes a run.
    options = train_options(["--method", method, "--backbone", backbone, "--out", "unused"])
    subject = options.method(options.hyper)
    torch.manual_seed(0)
    subject.setup(tower, episode, episode.source.templates)
    batch = Steps(episode, batch_size, 0, preprocess_for(tower))[0].to(place)
    parameters = subject.parameters()
    now: Callable[[], float] = time.perf_counter if clock == "wall" else time.process_time

    def seconds(work: Callable[[], None]) -> float:
        if place.type == "cuda":
            torch.cuda.synchronize(place)
        began = now()
        work()
        if place.type == "cuda":
            torch.cuda.synchronize(place)
        return now() - began

    def memory() -> int:
        return torch.cuda.max_memory_allocated(place) if place.type == "cuda" else peak() - before

    step = None
    if subject.iterates:
        kind = options.run.average or subject.average
        optimizer = build_optimizer(subject.param_groups(), options.run)
        average = make_average(kind, parameters, steps + 1)
        done = 0

        def one_step() -> None:
            nonlocal done
            done += 1
            optimizer.zero_grad(set_to_none=True)
            terms = subject.loss(batch)
            torch.stack([value for name, value in terms.items() if name.startswith("loss")]).sum().backward()
            optimizer.step()
            average.update(done)
            subject.after_step(done)

        one_step()  # optimiser state, caches, threads
        forget_peak()
        step = statistics.median(seconds(one_step) for _ in range(steps))
        most = memory()
    classifier = subject.classifier(episode.class_names)

    def predict() -> None:
        with torch.no_grad():
            classifier(batch.images)

    predict()
    if step is None:
        forget_peak()
    predicted = statistics.median(seconds(predict) for _ in range(steps))
    if step is None:
        most = memory()
    return Cost(method, backbone, sum(p.numel() for p in parameters), step, most, predicted)


def warm_up(tower: Backbone) -> None:
    """Use both towers once: libraries take some hundred MiB when they first run, which no method is to pay."""
    tower.encode_text(["a"]).sum().backward()
    tower.encode_image(tower.model.logit_scale.new_zeros(1, 3, *tower.image_size)).sum().backward()


def first_classes(count: int) -> Episode:
    """Domain shift on pictograms, with the first classes only."""
    import numpy as np

    from .data import load_source
    from .protocols import build_episode

    source = load_source("pictograms")
    episode = build_episode("domain-shift", source, source.domain_names[0], 0)
    kept = episode.train_classes[:count]
    rows = episode.train_rows[np.isin(source.labels[episode.train_rows], kept)]
    return replace(episode, train_classes=kept, train_rows=rows)


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


def machine() -> dict[str, Any]:
    """Where the numbers are from."""
    import torch

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()
    return {"machine": name, "threads": torch.get_num_threads(), "torch": str(torch.__version__)}


def cpu_name() -> str:
    """Model name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def resident() -> int:
    """Bytes of memory this process holds now."""
    return _status("VmRSS") or _most()


def peak() -> int:
    """Most bytes held since `forget_peak` (since the start where the system cannot forget)."""
    return _status("VmHWM") or _most()


def forget_peak() -> None:
    """Start anew with `peak`, on Linux and on GPUs."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _status(name: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(name)), 0)


def _most() -> int:
    if os.name != "posix":
        return 0
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    task = json.loads(sys.argv[1])
    try:
        found = measure(**task)
    except UserError as error:
        found = Cost(task["method"], task["backbone"], reason=str(error))
    print(json.dumps(asdict(found)))
