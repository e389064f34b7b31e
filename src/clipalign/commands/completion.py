"""`clipalign completion`: print a script that completes commands, options and choices in a shell."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import ArgumentParser

from ..core.config import TrainConfig
from ..core.help import HelpFormatter
from ..core.parsing import OptionParser, parse_config
from ..methods import all_methods
from .cli import COMMANDS, Command, find
from .options import CompletionConfig


def run_completion(tokens: Sequence[str], prog: str = "clipalign completion") -> None:
    """Print the completion script of a shell."""
    shell = parse_config(CompletionConfig, tokens, prog).shell
    print(root_parser().get_completion_script(f"shtab-{shell}"))


def root_parser() -> ArgumentParser:
    """Return a parser of all commands with all their options, those of every method included."""
    root = ArgumentParser(
        prog="clipalign", description="Fine-tune CLIP-like models", formatter_class=HelpFormatter
    )
    commands = root.add_subcommands(required=False)
    for name, command in COMMANDS.items():
        parser = command_parser(f"clipalign {name}", command)
        commands.add_subcommand(name, parser, help=command.summary)
        if command.members:
            members = parser.add_subcommands(required=False, dest=f"{name}_command")
            for member, inner in command.members.items():
                members.add_subcommand(
                    member, command_parser(f"clipalign {name} {member}", inner), help=inner.summary
                )
    return root


def command_parser(prog: str, command: Command) -> ArgumentParser:
    """Return the parser of one command."""
    if command.members:
        return ArgumentParser(prog=prog, description=command.summary, formatter_class=HelpFormatter)
    options: type = find(command.options)
    methods = [method.Config for method in all_methods()] if options is TrainConfig else []
    return OptionParser(prog, options, *methods).make()
