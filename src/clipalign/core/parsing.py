"""Command line, YAML and Python -> typed options, through one jsonargparse parser.

Tokens and objects are converted by the same parser, one option at a time, so that a value means the same wherever
it comes from and a message can name its option. Only options that were given are returned: callers layer them.
"""

from __future__ import annotations

import difflib
import numbers
import shlex
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from jsonargparse import ArgumentError, ArgumentParser

from .config import flag
from .errors import UserError
from .fields import Option, build, flat, options_of, variants
from .help import make_parser
from .yaml_files import plain, read_yaml

T = TypeVar("T")
NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "a string", Path: "a path"}


class OptionParser:
    """Options of one command.

    Args:
        prog: how the command is called, for help texts.
        classes: dataclasses of the options; see `fields.options_of`.
        explain: returns why a name is not an option here, or None if nothing is known of it; for messages.
        titles: headings of groups in help texts; default: the first line of a class's docstring.
    """

    def __init__(
        self,
        prog: str,
        *classes: type,
        explain: Callable[[str], str | None] = lambda name: None,
        titles: Mapping[type, str] | None = None,
    ) -> None:
        self.prog, self.classes, self.explain, self.titles = prog, classes, explain, titles or {}
        self.options = options_of(*classes)
        self.aliases = {o.facts.alias: name for name, o in self.options.items() if o.facts.alias}
        self.parser = self.make()

    @property
    def reads_files(self) -> bool:
        """Whether --config names a file of options, rather than being an option."""
        return "config" not in self.options

    def make(self, defaults: Mapping[str, Any] | None = None, *, full: bool = False) -> ArgumentParser:
        """Return the jsonargparse parser; see `help.make_parser`."""
        description = " ".join((self.classes[0].__doc__ or "").split())
        titles = {self.classes[0]: "Options"} | dict(self.titles)
        return make_parser(self.prog, description, self.options.values(), titles, defaults or {}, full=full)

    def parse(self, tokens: Sequence[str], defaults: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the options given on a command line, and `config` if --config was.

        Args:
            tokens: what follows the command's name.
            defaults: values that help texts show instead of the fields' defaults.

        Raises:
            UserError: an unknown option, or a value that does not fit.
            SystemExit: after printing the help text for -h, --help or --help-all.
        """
        positional, groups = split_tokens(tokens)
        groups = [(self.aliases.get(name, name), group) for name, group in groups]
        if asked := {"help", "help_all"} & {name for name, _ in groups}:
            print(self.make(defaults, full="help_all" in asked).format_help(), end="")
            sys.exit(0)
        self.reject_unknown(name for name, _ in groups if not (name == "config" and self.reads_files))
        values: dict[str, Any] = {}
        for name, group in groups:
            count = self._values(name, group[0])
            positional += group[1 + count :]
            values[name] = self._parse_one(name, group[: 1 + count])
        return self._positional(positional) | values

    def convert(self, values: Mapping[str, Any], where: str = "") -> dict[str, Any]:
        """Return values from YAML or Python in the types of their options.

        Args:
            values: by option name.
            where: start of messages, such as "run.yaml: ".

        Raises:
            UserError: an unknown option, or a value that does not fit.
        """
        self.reject_unknown(values, where)
        return {name: self._convert_one(self.options[name], value, where) for name, value in values.items()}

    def reject_unknown(self, names: Iterable[str], where: str = "") -> None:
        """Raise UserError for the first name that is not an option, with the reason or the nearest option."""
        for name in names:
            if name not in self.options:
                if reason := self.explain(name):
                    raise UserError(f"{where}{flag(name)} {reason}")
                reject_unknown([name], self.options, where)

    def _values(self, name: str, head: str) -> int:
        """Return the number of tokens that follow a flag as its values, at most."""
        option = self.options.get(name)
        if "=" in head or (option is not None and option.hint is bool):
            return 0
        return 1 if option is None or option.element is None else sys.maxsize - 1

    def _parse_one(self, name: str, tokens: Sequence[str]) -> Any:
        head, *rest = tokens
        head, equals, value = head.partition("=")
        given = [value] if equals else rest
        option = self.options.get(name)
        if option is None:  # --config
            if len(given) != 1:
                raise UserError(f"{flag(name)} needs a file")
            return given[0]
        if not given and option.hint is not bool and option.element is None:
            raise UserError(f"{option.label} needs a value: {expected(option)}")
        words = [head.replace("_", "-"), *(spelt(option, text) for text in given)]
        tokens = ["=".join(words)] if len(words) == 2 and option.element is None else words
        try:
            value = self.parser.parse_args(tokens, defaults=False)[name]
        except ArgumentError:
            raise UserError(refusal(option, " ".join(given))) from None
        return tuple(value) if option.element is not None and value is not None else value

    def _positional(self, tokens: Sequence[str]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        left = list(tokens)
        for option in self.options.values():
            if option.facts.positional and left:
                count = 1 if option.element is None else len(left)
                given, left = left[:count], left[count:]
                values[option.name] = self._convert_one(option, given if option.element else given[0], "")
        if left:
            raise UserError(f'unexpected argument "{left[0]}"')
        return values

    def _convert_one(self, option: Option, value: Any, where: str) -> Any:
        try:
            value = self.parser.parse_object({option.name: prepared(option, value)}, defaults=False)[
                option.name
            ]
        except (ArgumentError, TypeError):
            raise UserError(where + refusal(option, plain(value))) from None
        return tuple(value) if option.element is not None and value is not None else value


def parse_config(cls: type[T], tokens: Sequence[str], prog: str) -> T:
    """Fill a command's dataclass from its command line and, below it, from the file of --config."""
    parser = OptionParser(prog, cls)
    values = parser.parse(tokens)
    if parser.reads_files and "config" in values:
        path = Path(values.pop("config"))
        values = parser.convert(read_yaml(path), f"{path}: ") | values
    return build(cls, values)


def make_config(cls: type[T], values: Mapping[str, Any]) -> T:
    """Fill a command's dataclass from Python values, which are checked like those of a command line."""
    return build(cls, OptionParser("", cls).convert(values))


def split_tokens(tokens: Sequence[str]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Group tokens by option: ["m", "--a", "1", "--b=2"] -> ["m"], [("a", ["--a", "1"]), ("b", ["--b=2"])].

    Names have underscores; `--no-x` counts as x. Tokens before the first option, or after "--", belong to none.
    """
    tokens = list(tokens)
    end = tokens.index("--") if "--" in tokens else len(tokens)
    positional: list[str] = []
    groups: list[tuple[str, list[str]]] = []
    for token in tokens[:end]:
        if token == "-h" or token.startswith("--"):
            name = "help" if token == "-h" else token[2:].partition("=")[0].replace("-", "_")
            groups.append((name.removeprefix("no_"), [token]))
        elif groups:
            groups[-1][1].append(token)
        else:
            positional.append(token)
    return positional + tokens[end + 1 :], groups


def spelt(option: Option, text: str) -> str:
    """Return a token as jsonargparse reads it, which spells None, nan and inf as YAML does."""
    if type(None) in variants(option.hint) and text == "None":
        return "null"
    return f".{text}" if float in variants(option.hint) and text in ("nan", "inf") else text


def prepared(option: Option, value: Any) -> Any:
    """Return a value of YAML or Python as jsonargparse takes it: lists for tuples, strings for paths and names.

    Raises:
        TypeError: a value of another kind.
    """
    if value is None or (isinstance(value, str) and value == "None"):
        if type(None) in variants(option.hint):
            return None
        if value is None:
            raise TypeError("not optional")
    if isinstance(value, Mapping):
        raise TypeError("a mapping")
    if option.element is not None:
        items = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        return [scalar(item, option.element) for item in items]
    return scalar(value, *variants(option.hint))


def scalar(value: Any, *hints: Any) -> Any:
    """Return a single value as jsonargparse takes it; numbers become strings for options that take any string."""
    if isinstance(value, (Sequence, Mapping)) and not isinstance(value, str):
        raise TypeError("not a single value")
    if str in hints or isinstance(value, Path):
        return str(value)
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else value


def refusal(option: Option, value: Any) -> str:
    """Return a message for a value that does not fit its option."""
    if option.hint is bool and isinstance(value, str):
        return f"{option.label} takes no value, not {value}"
    return f"{option.label} must be {expected(option)}, not {value}"


def expected(option: Option) -> str:
    """Return in words what an option takes."""
    if option.element is not None:
        return f"values, each {described(option.element)}"
    kinds = [described(hint) for hint in variants(option.hint) if hint is not type(None)]
    if kinds == ["an integer", "a number"]:
        kinds = ["a number"]
    return " or ".join(kinds + ["None"] * (type(None) in variants(option.hint)))


def described(hint: Any) -> str:
    """Return a type in words."""
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    return NAMES.get(hint, str(hint))


def reject_unknown(names: Iterable[str], known: Collection[str], where: str = "") -> None:
    """Raise UserError for the first name that is not an option, with the nearest one that is."""
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.5)
            hint = f"; did you mean {flag(near[0])}?" if near else ""
            raise UserError(f"{where}unknown option {flag(name)}{hint}")


def command_line(prog: str, config: object) -> str:
    """Return the command whose options are those of a dataclass, without defaults."""
    options = options_of(type(config))
    values = {name: value for name, value in flat(config).items() if value != options[name].default}
    return shlex.join([*prog.split(), *to_tokens(values, type(config))])


def to_tokens(values: Mapping[str, Any], *classes: type) -> list[str]:
    """Return option values as they are typed on a command line, to print a command or to pass it to a process."""
    options = options_of(*classes)
    positional: list[str] = []
    tokens: list[str] = []
    for name, value in values.items():
        option = options[name]
        words = [str(item) for item in value] if isinstance(value, (list, tuple)) else [str(value)]
        if option.facts.positional:
            positional += words
        elif option.hint is bool:
            tokens.append(flag(name) if value else flag("no_" + name))
        else:
            tokens += [flag(name), *words]
    return positional + tokens
