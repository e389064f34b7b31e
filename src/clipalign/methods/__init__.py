"""Methods by name: one file of this folder each, and the entry point group `clipalign.methods`."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from ..core.config import TrainConfig
from ..core.fields import options_of
from ..core.registry import Registry
from .base import Method, check_template
from .capabilities import (
    JointClassifier,
    LinearHead,
    SupportsCaptions,
    SupportsExplain,
    SupportsHooks,
    SupportsLinearHead,
    SupportsMasks,
    explain_text_features,
    text_head,
)

__all__ = [
    "METHODS",
    "JointClassifier",
    "LinearHead",
    "Method",
    "SupportsCaptions",
    "SupportsExplain",
    "SupportsHooks",
    "SupportsLinearHead",
    "SupportsMasks",
    "all_methods",
    "check_template",
    "explain_text_features",
    "get_method",
    "list_methods",
    "register",
    "text_head",
]


def _name_and_check(name: str, cls: type[Method[Any]]) -> None:
    """Set the name of a method, whose options must not be those of every run."""
    clash = {f.name for f in fields(cls.Config)} & options_of(TrainConfig).keys()
    if clash:
        raise TypeError(f"method {name}: {sorted(clash)} are options of every run, choose other names")
    cls.name = name


METHODS: Registry[type[Method[Any]]] = Registry(
    "method",
    "clipalign.methods",
    package=__name__,
    skip=("base", "capabilities", "shared"),
    flag="--method",
    check=_name_and_check,
)
register = METHODS.register  # class decorator: @register("name")


def all_methods() -> list[type[Method[Any]]]:
    """Return every method, sorted by name; imports all of them."""
    return [METHODS.get(name) for name in list_methods()]


def list_methods() -> list[str]:
    """Return the values of --method, sorted; imports nothing."""
    return sorted(METHODS.names())


def get_method(name: str) -> type[Method[Any]]:
    """Return the class of a method.

    Raises:
        UserError: no method has this name; the message suggests the nearest one.
    """
    return METHODS.get(name)
