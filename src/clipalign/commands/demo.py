"""`clipalign demo`: fine-tune the shipped model on the shipped data and write a report, in minutes and offline.

One in-the-wild episode: train on half of the classes in four drawing styles, test all classes in a fifth. Every step
prints the command that does the same.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from ..core.parsing import parse_config
from ..report.accuracy import accuracy_tables
from ..report.collect import find_runs
from ..report.forgetting import forgetting
from ..report.render import print_tables
from ..runs.folder import check_out
from ..runs.options import train_command
from .options import DemoConfig
from .report import Report, write_report
from .train import train_from

METHODS = ("zeroshot", "erm", "alignclip")
TITLE = "clipalign demo: a new style and new classes at once"


def run(tokens: Sequence[str] = (), prog: str = "clipalign demo") -> Report:
    """Run the demo as a command line says.

    Raises:
        UserError: a non-empty --out without --overwrite, an unknown target.
    """
    config = parse_config(DemoConfig, tokens, prog)
    check_out(config.out, overwrite=config.overwrite)
    console = Console(highlight=False, soft_wrap=True)
    began = time.perf_counter()
    console.print(
        f"Three methods train on half of the classes of pictograms in four styles and are tested on all classes "
        f"in the fifth, {config.target}.",
    )
    for number, method in enumerate(METHODS, 1):
        options = training_options(config, method)
        console.print(f"\n[bold]{number}/{len(METHODS)} {method}[/bold]")
        console.print(f"$ {train_command(options)}", style="dim", markup=False)
        train_from(options | ({"overwrite": True} if config.overwrite else {}))

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


def training_options(config: DemoConfig, method: str) -> dict[str, Any]:
    """Return the options of `clipalign train` for one method of the demo."""
    options: dict[str, Any] = {
        "method": method,
        "data": "pictograms",
        "protocol": "in-the-wild",
        "target": config.target,
        "backbone": config.backbone,
        "seed": config.seed,
        "out": config.out / "runs" / method,
    }
    return options if method == "zeroshot" else {**options, "steps": config.steps}


def next_steps(config: DemoConfig) -> list[str]:
    """Return commands to try with the files of the demo."""
    run_folder = config.out / "runs" / "alignclip"
    steps = {
        "where the model looks on an image of yours": f'clipalign explain {run_folder} photo.jpg --text "a dog"',
        "how it classifies that image": f"clipalign predict {run_folder} photo.jpg",
        "a large model on a folder of class/image": "clipalign train --data my_photos/ "
        "--protocol base-to-new --method alignclip --backbone ViT-B-16:openai --out runs/mine",
        "all methods": "clipalign list methods",
    }
    return ["", "Next steps"] + [f"  {what}:\n    {command}" for what, command in steps.items()]
