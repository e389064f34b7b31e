"""The command line. A command's module is imported when the command is chosen, so that `--help` is quick."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from ..core.errors import UserError
from ..core.interrupts import Interrupted
from ..core.version import __version__


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        summary: one line for `clipalign --help`.
        run: "module:function", relative to this package; the function takes tokens and the command's name.
        options: "module:class" of the dataclass of its options; empty for a group of commands.
        members: commands of a group, by name.
    """

    summary: str
    run: str
    options: str = ""
    members: Mapping[str, Command] = field(default_factory=dict)


DATA = {
    "check": Command("check a data set before training", "data:run_check", "options:CheckConfig"),
    "prepare": Command(
        "lay out a published set from its archives", "data:run_prepare", "options:PrepareConfig"
    ),
}
# A new command is one entry.
COMMANDS = {
    "demo": Command(
        "fine-tune the shipped model on the shipped data and write a report", "demo:run", "options:DemoConfig"
    ),
    "train": Command(
        "fine-tune a backbone and score it on a protocol", "train:run_training", "..core.config:TrainConfig"
    ),
    "eval": Command("score a run, or a backbone zero-shot", "eval:run_evaluation", "options:EvalConfig"),
    "data": Command("check data before training; lay out published sets", "data:run_data", members=DATA),
    "predict": Command("classify images", "predict:run_prediction", "options:PredictConfig"),
    "embed": Command("encode images for `search`", "embed:run_embed", "options:EmbedConfig"),
    "search": Command("find images by text or image", "search:run_search", "options:SearchConfig"),
    "explain": Command("draw where a model looks", "explain:run_explain", "options:ExplainConfig"),
    "app": Command("try models on photos in a browser", "app:run_app", "options:AppConfig"),
    "sweep": Command(
        "run a study, several runs at a time, and resume it", "sweep:run_sweep", "study_options:SweepConfig"
    ),
    "tune": Command("choose options by nested validation", "tune:run_tune", "tune_options:TuneConfig"),
    "reproduce": Command(
        "run the study of a published table and compare cell by cell",
        "reproduce:run_reproduction",
        "study_options:ReproduceConfig",
    ),
    "export": Command(
        "write a model for open_clip, Hugging Face or ONNX", "export:run_export", "options:ExportConfig"
    ),
    "report": Command("write tables and plots of runs", "report:run_report", "options:ReportConfig"),
    "bench": Command(
        "measure the cost of a step of each method", "bench:run_bench", "study_options:BenchConfig"
    ),
    "list": Command("list methods, data sets, backbones or protocols", "list:run_list", "options:ListConfig"),
    "completion": Command(
        "print a script that completes commands in a shell",
        "completion:run_completion",
        "options:CompletionConfig",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, 2 for invalid input, or 128 + the number of a signal that ended it."""
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
            near = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; choose one of: {', '.join(COMMANDS)}"
            raise UserError(f'unknown command "{name}"{hint}')
        command, tokens, prog = COMMANDS[name], arguments[1:], f"clipalign {name}"
        if tokens and tokens[0] in command.members:
            command, tokens, prog = command.members[tokens[0]], tokens[1:], f"{prog} {tokens[0]}"
        if {"-h", "--help", "--help-all"} & set(tokens) and command.options:
            print_help(command, tokens, prog)
        else:
            run: Callable[[Sequence[str], str], Any] = find(command.run)
            run(tokens, prog)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        if message := str(error) if isinstance(error, Interrupted) else "interrupted":
            print(message, file=sys.stderr)
        return error.status if isinstance(error, Interrupted) else 130
    except BrokenPipeError:  # the reader of a pipe has closed it
        sys.stderr.close()
        return 1
    return 0


def print_help(command: Command, tokens: Sequence[str], prog: str) -> None:
    """Print the options of a command without importing it."""
    if command is COMMANDS["train"]:  # its options depend on the method
        from ..runs.options import train_options

        train_options(tokens, prog)
    else:
        from ..core.parsing import OptionParser

        OptionParser(prog, find(command.options)).parse(tokens)


def find(target: str) -> Any:
    """Return a function or class of a command's module, given as "module:name"."""
    module, _, name = target.partition(":")
    return getattr(import_module(module if module.startswith(".") else f".{module}", __package__), name)


def overview() -> str:
    """Return the text of `clipalign --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: clipalign COMMAND [OPTIONS]",
            "",
            "Fine-tune CLIP-like models so that they generalise to new domains and new classes.",
            "",
            *lines,
            "",
            "clipalign COMMAND --help prints a command's options; --config FILE reads them from YAML.",
        ]
    )
