"""The command line. Nothing heavy is imported before a command is known, so that help comes at once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from ..core.errors import UserError
from ..core.version import __version__

# Command -> (what it does, module, function of (arguments, prog)). A new command is one line here.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "demo": (
        "fine-tune the shipped model on the shipped data and write a report",
        "clipalign.commands.demo",
        "run",
    ),
    "train": ("fine-tune a backbone and score it on a protocol", "clipalign.commands.train", "run_training"),
    "eval": ("score a run, or a backbone zero-shot", "clipalign.commands.eval", "run_evaluation"),
    "data": ("check images before training; lay out published sets", "clipalign.commands.data", "run_data"),
    "predict": ("name what is on images", "clipalign.commands.predict", "run_prediction"),
    "explain": ("draw where a model looks", "clipalign.commands.explain", "run_explain"),
    "sweep": (
        "do all runs of a study, several at once, through kills",
        "clipalign.commands.sweep",
        "run_sweep",
    ),
    "export": (
        "write a model for open_clip, Hugging Face or ONNX",
        "clipalign.commands.export",
        "run_export",
    ),
    "report": ("tables and pictures from runs", "clipalign.commands.report", "run_report"),
    "bench": ("what a step of each method costs, side by side", "clipalign.commands.bench", "run_bench"),
    "list": (
        "print the methods, data sets, backbones or protocols there are",
        "clipalign.commands.list",
        "run_list",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, or 2 for input that the user can mend."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print(overview())
        return 0 if arguments else 2
    if name in ("-V", "--version"):
        print(f"clipalign {__version__}")
        return 0
    try:
        if name not in COMMANDS:
            raise UserError(f'unknown command "{name}"; choose one of: {", ".join(COMMANDS)}')
        if name == "train" and {"-h", "--help"} & set(arguments):
            from ..runs.options import (
                train_options,  # needs no towers, whose import takes longer than all the rest
            )

            train_options(arguments[1:])
        _, module, function = COMMANDS[name]
        run: Callable[[Sequence[str], str], Any] = getattr(import_module(module), function)
        run(arguments[1:], f"clipalign {name}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of a pipe has seen enough
        sys.stderr.close()
        return 1
    return 0


def overview() -> str:
    """The text of `clipalign --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {summary}" for name, (summary, _, _) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: clipalign COMMAND [OPTIONS]",
            "",
            "Fine-tune CLIP-like models so that they stay right in new domains and on new classes.",
            "",
            *lines,
            "",
            "clipalign COMMAND --help shows a command's options; --config FILE reads them from YAML.",
        ]
    )
