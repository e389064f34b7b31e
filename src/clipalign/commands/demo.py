"""`clipalign demo`: shipped data and shipped model, from nothing to a report in minutes, without a network.

One episode in the wild: train on half of the classes in four drawing styles, test all classes in a fifth style.
Everything here can be typed by hand; each step prints the command that it stands for.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ..core.config import at_least
from ..report.accuracy import accuracy_tables
from ..report.collect import find_runs
from ..report.forgetting import forgetting
from ..report.render import print_tables
from ..runs.folder import check_out
from ..runs.options import parse_config
from .report import Report, write_report
from .train import run_training

METHODS = ("zeroshot", "erm", "alignclip")
TITLE = "clipalign demo: a new style and new classes at once"


@dataclass(frozen=True)
class DemoConfig:
    """Fine-tune the shipped model on the shipped data with three methods, and write a report with pictures."""

    out: Path = Path("clipalign-demo")
    """Folder for the runs and the report. Must be new or empty, unless --overwrite is given."""
    target: str = "twemoji"
    """Style that is left out of training and tested: a domain of pictograms."""
    steps: int = 120
    """Optimiser steps of each method that trains."""
    seed: int = 0
    """Seed of batches and training views."""
    pictures: int = 6
    """Test images to show with their maps, before and after."""
    backbone: str = "pocket"
    """"pocket", or "pocket:random" to see what pre-training is worth."""
    overwrite: bool = False
    """Replace the demo in --out."""

    def check(self) -> None:
        """Raise UserError for the first value out of range."""
        at_least(self, 1, "steps")
        at_least(self, 0, "seed", "pictures")


def run(arguments: Sequence[str] = (), prog: str = "clipalign demo") -> Report:
    """Run the demo as the tokens of a command line say.

    Raises:
        UserError: a non-empty --out without --overwrite, an unknown target.
    """
    config = parse_config(DemoConfig, arguments, prog)
    check_out(config.out, overwrite=config.overwrite)
    console = Console(highlight=False, soft_wrap=True)
    began = time.perf_counter()
    console.print(
        f"Three methods learn half of the classes of pictograms in four styles; the test is every class in the "
        f"fifth, {config.target}.",
    )
    for number, method in enumerate(METHODS, 1):
        tokens = training_arguments(config, method)
        console.print(f"\n[bold]{number}/{len(METHODS)} {method}[/bold]")
        console.print(f"$ {shlex.join(['clipalign', 'train', *tokens])}", style="dim", markup=False)
        run_training([*tokens, *(["--overwrite"] if config.overwrite else [])])

    folder = config.out / "runs"
    rows = [row for found in find_runs(folder) for row in found.rows()]
    console.print()
    print_tables(accuracy_tables(rows))
    for item in forgetting(rows):
        console.print(str(item))
    report = write_report(folder, config.out, title=TITLE, pictures=config.pictures, overwrite=True)
    console.print(f"\nDone in {time.perf_counter() - began:.0f} seconds. Open {report.html}", markup=False)
    for line in next_steps(config):
        console.print(line, markup=False)
    return report


def training_arguments(config: DemoConfig, method: str) -> list[str]:
    """Tokens of `clipalign train` for one method of the demo."""
    options: dict[str, object] = {
        "method": method,
        "data": "pictograms",
        "protocol": "in-the-wild",
        "target": config.target,
        "backbone": config.backbone,
        "seed": config.seed,
        "out": config.out / "runs" / method,
    }
    if method != "zeroshot":
        options["steps"] = config.steps
    return [token for name, value in options.items() for token in (f"--{name}", str(value))]


def next_steps(config: DemoConfig) -> list[str]:
    """What to try with what the demo has written."""
    run_folder = config.out / "runs" / "alignclip"
    steps = {
        "where the model looks on your own image": f'clipalign explain {run_folder} photo.jpg --text "a dog"',
        "what it says is on it": f"clipalign predict {run_folder} photo.jpg",
        "a large model on your own folder of class/image": "clipalign train --data my_photos/ "
        "--protocol base-to-new --method alignclip --backbone ViT-B-16:openai --out runs/mine",
        "every method there is": "clipalign list methods",
    }
    return ["", "What to try next"] + [f"  {what}:\n    {command}" for what, command in steps.items()]
