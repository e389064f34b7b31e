"""Options as fields of dataclasses: list them, read their docstrings, fill the dataclasses from flat values."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import textwrap
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin

from .config import FACTS, OptionFacts, flag
from .errors import UserError

T = TypeVar("T")


class _Default:
    """Type of `DEFAULT`."""

    def __repr__(self) -> str:
        return "DEFAULT"


DEFAULT: Any = _Default()  # keyword that was not given, so that lower layers decide; None is a value


@dataclass(frozen=True)
class Option:
    """One option: a field of a dataclass.

    Attributes:
        name: field name, with underscores.
        hint: its type.
        default: its default; `dataclasses.MISSING` if it is required.
        facts: unit, range and more.
        group: the dataclass that has the field.
    """

    name: str
    hint: Any
    default: Any
    facts: OptionFacts
    group: type

    @property
    def label(self) -> str:
        """Name in messages: the flag, or MODEL for a positional argument."""
        return self.name.upper() if self.facts.positional else flag(self.name)

    @property
    def element(self) -> Any:
        """X of `tuple[X, ...]`; None for other types."""
        return next((get_args(hint)[0] for hint in variants(self.hint) if get_origin(hint) is tuple), None)

    @property
    def doc(self) -> str:
        """Docstring below the field, on one line."""
        return field_docs(self.group).get(self.name, "")

    @property
    def summary(self) -> str:
        """First sentence of the docstring."""
        head, _, _ = (self.doc + " ").partition(". ")
        return head.strip().removesuffix(".")


def variants(hint: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the type itself."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def options_of(*classes: type) -> dict[str, Option]:
    """Return the options of dataclasses by name; a field that is a dataclass is a group of options."""
    return {option.name: option for cls in classes for option in _options(cls)}


@cache
def _options(cls: Any) -> tuple[Option, ...]:
    found: list[Option] = []
    hints = typing.get_type_hints(cls)
    for f in dataclasses.fields(cls):
        if is_group(hints[f.name]):
            found += _options(hints[f.name])
        else:
            default = f.default if f.default_factory is MISSING else f.default_factory()
            about = f.metadata.get(FACTS, OptionFacts())
            found.append(Option(f.name, hints[f.name], default, about, cls))
    return tuple(found)


def is_group(hint: Any) -> bool:
    """Return whether a field's type is a dataclass, whose fields are options themselves."""
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


@cache
def field_docs(cls: type) -> dict[str, str]:
    """Return the docstrings below the fields of a dataclass and of its bases, by field."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        body = typing.cast(ast.ClassDef, ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]).body
        for statement, following in itertools.pairwise(body):
            match statement, following:
                case ast.AnnAssign(target=ast.Name(name)), ast.Expr(value=ast.Constant(value=str(text))):
                    docs[name] = " ".join(text.split())
    return docs


def build(cls: type[T], values: Mapping[str, Any]) -> T:
    """Fill a dataclass, groups included, from typed values by option name.

    Options without a value keep their default; names of other dataclasses are ignored.

    Raises:
        UserError: a value out of range, or a required option without one.
    """
    hints = typing.get_type_hints(cls)
    arguments: dict[str, Any] = {}
    for f in dataclasses.fields(cls):  # type: ignore[arg-type]  # T is a dataclass
        if is_group(hints[f.name]):
            arguments[f.name] = build(hints[f.name], values)
        elif f.name in values:
            arguments[f.name] = values[f.name]
        elif f.default is MISSING and f.default_factory is MISSING:
            option = options_of(cls)[f.name]
            raise UserError(f"{option.label} is missing: {option.summary}")
    return cls(**arguments)


def flat(*configs: object) -> dict[str, Any]:
    """Return the values of options by name; the inverse of `build`."""
    values: dict[str, Any] = {}
    for config in configs:
        for f in dataclasses.fields(config):  # type: ignore[arg-type]  # a dataclass
            value = getattr(config, f.name)
            values |= flat(value) if dataclasses.is_dataclass(value) else {f.name: value}
    return values
