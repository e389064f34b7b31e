"""Help texts: options grouped by topic, one sentence each, or with all details."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import MISSING
from typing import Any, Literal, get_args, get_origin

from jsonargparse import ActionYesNo, ArgumentParser

from .config import flag
from .fields import Option, variants

COLUMNS = 80
INDENT = 28  # columns before help texts


class HelpFormatter(argparse.HelpFormatter):
    """Formatter of help texts of fixed width, with one entry for both flags of a switch."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=INDENT, width=COLUMNS)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if isinstance(action, ActionYesNo):  # one name for both flags
            return action.option_strings[0].replace("--", "--[no-]")
        if action.nargs == "*" and action.option_strings:
            return f"{action.option_strings[0]} {action.metavar} ..."
        return super()._format_action_invocation(action)


def make_parser(
    prog: str,
    description: str,
    options: Iterable[Option],
    titles: Mapping[type, str],
    defaults: Mapping[str, Any],
    *,
    full: bool = False,
) -> ArgumentParser:
    """Return a jsonargparse parser, whose `format_help` prints one group per dataclass.

    Args:
        prog: how the command is called.
        description: first lines of the help text.
        options: in the order of the help text.
        titles: headings of groups; default: the first line of a class's docstring.
        defaults: values that help texts show instead of the fields' defaults.
        full: print whole docstrings, reasons and facts, not just the first sentences.
    """
    options = list(options)
    parser = ArgumentParser(
        prog=prog,
        usage=" ".join(
            [prog, *(usage(option) for option in options if option.facts.positional), "[OPTIONS]"]
        ),
        description=description,
        formatter_class=HelpFormatter,
        add_help=False,
        allow_abbrev=False,
        exit_on_error=False,
    )
    groups: dict[type, Any] = {}
    for option in options:
        if option.group not in groups:
            heading = titles.get(option.group) or (option.group.__doc__ or "").strip().splitlines()[0].rstrip(
                "."
            )
            groups[option.group] = parser.add_argument_group(heading)
        default = defaults.get(option.name, option.default)
        text = (details if full else sentence)(option, default)
        add_argument(groups[option.group], option, text.replace("%", "%%"))
    general = parser.add_argument_group("General")
    if all(option.name != "config" for option in options):
        general.add_argument("--config", metavar="FILE", help="YAML file of options; the command line wins")
    general.add_argument("-h", "--help", action="store_true", help="Print one sentence per option")
    general.add_argument("--help-all", action="store_true", help="Print all details of every option")
    return parser


def add_argument(group: Any, option: Option, text: str) -> None:
    """Add an option to a group of a parser."""
    if option.facts.positional and option.element is not None:
        kind = {"type": option.element, "nargs": "*", "default": []}  # argparse requires it without a default
        group.add_argument(option.name, metavar=option.label, help=text, **kind)
    elif option.facts.positional:
        group.add_argument(option.name, type=option.hint, nargs="?", metavar=option.label, help=text)
    elif option.hint is bool:
        action = ActionYesNo(yes_prefix="", no_prefix="no-")
        group.add_argument(flag(option.name), action=action, default=bool(option.default), help=text)
    elif option.element is not None:
        group.add_argument(
            flag(option.name), type=option.element, nargs="*", metavar=placeholder(option), help=text
        )
    else:
        names = [flag(name) for name in (option.name, option.facts.alias) if name]
        group.add_argument(*names, type=option.hint, metavar=placeholder(option), help=text)


def sentence(option: Option, default: Any) -> str:
    """Return the first sentence of an option, its choices unless they are printed elsewhere, and its default."""
    names = choices(option)
    beside = placeholder(option).startswith("{") or all(name in option.summary for name in names)
    listed = [] if beside else [f"({', '.join(names)})"]
    return " ".join([option.summary, *listed, *shown(option, default)])


def details(option: Option, default: Any) -> str:
    """Return everything that is known of an option."""
    about = option.facts
    parts = [option.doc]
    if names := choices(option):
        parts.append(f"Choices: {', '.join(names)}.")
    if about.reason and default == option.default:  # not of a value that a recipe set
        parts.append(f"Source of the default: {about.reason}.")
    if not about.affects_result:
        parts.append("Does not affect the result.")
    return " ".join([*parts, *shown(option, default)])


def shown(option: Option, default: Any) -> list[str]:
    """Return a default in brackets; nothing for a required argument or an unset option that the text explains."""
    if default is None or default == ():
        return [f"[{option.facts.unset}]"] if option.facts.unset else []
    if default is MISSING:
        return [] if option.facts.positional else ["[required]"]
    if default is False:
        return []
    if default is True:
        return ["[on]"]
    return [f"[{default:g}]" if isinstance(default, float) else f"[{default}]"]


def placeholder(option: Option) -> str:
    """Return what stands for the value beside a flag: its choices, its unit, or VALUE."""
    names = choices(option)
    braces = f"{{{','.join(names)}}}"
    if names and len(f"  {flag(option.name)} {braces}") <= INDENT - 2:
        return braces
    return option.facts.unit or ("NAME" if names else "VALUE")


def choices(option: Option) -> list[str]:
    """Return the values that an option chooses from; none if it takes any."""
    hints = (option.element,) if option.element is not None else variants(option.hint)
    return [str(value) for hint in hints if get_origin(hint) is Literal for value in get_args(hint)]


def usage(option: Option) -> str:
    """Return a positional argument as the usage line has it."""
    name = option.label + (" ..." if option.element is not None else "")
    return name if option.default is MISSING else f"[{name}]"
