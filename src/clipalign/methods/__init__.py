"""Methods by name: every file of this folder, and the entry point group `clipalign.methods`."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import fields
from functools import cache
from importlib.metadata import entry_points
from typing import TypeVar

from ..core.config import TrainConfig
from ..core.errors import UserError
from ..core.fields import options_of
from .base import Method

__all__ = ["Method", "all_methods", "get_method", "list_methods", "register"]

ENTRY_POINTS = "clipalign.methods"
M = TypeVar("M", bound=type[Method])
_registry: dict[str, type[Method]] = {}


def register(name: str) -> Callable[[M], M]:
    """Class decorator that makes a method known as `--method NAME`."""

    def add(cls: M) -> M:
        clash = {f.name for f in fields(cls.Config)} & options_of(TrainConfig).keys()
        if clash:
            raise TypeError(f"method {name}: {sorted(clash)} are options of every run, choose other names")
        if name in _registry and _registry[name].__qualname__ != cls.__qualname__:
            raise TypeError(f"two methods are named {name}: {_registry[name]} and {cls}")
        cls.name = name
        _registry[name] = cls
        return cls

    return add


@cache
def _import_all() -> None:
    for module in pkgutil.iter_modules(__path__):
        if module.name not in ("base", "shared"):
            importlib.import_module(f"{__name__}.{module.name}")
    for point in entry_points(group=ENTRY_POINTS):
        point.load()  # a class decorated with @register, or a module that holds some


def all_methods() -> list[type[Method]]:
    """Every registered method, sorted by name."""
    _import_all()
    return [_registry[name] for name in sorted(_registry)]


def list_methods() -> list[str]:
    """Names for --method."""
    return [method.name for method in all_methods()]


def get_method(name: str) -> type[Method]:
    """The class of a name.

    Raises:
        UserError: there is none.
    """
    names = list_methods()
    if name not in _registry:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f'--method: unknown "{name}"{hint} (known: {", ".join(names)})')
    return _registry[name]
