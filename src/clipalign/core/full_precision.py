"""Computation in float32 for functions whose result would suffer from half-precision inputs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function to run outside autocast, with half-precision tensors cast to float32.

    Example:
        >>> @full_precision
        ... def total(x: Tensor) -> Tensor:
        ...     return x.sum()
        >>> total(torch.ones(3, dtype=torch.bfloat16)).dtype
        torch.float32
    """

    def cast(value: Any) -> Any:
        half = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
        return value.float() if half else value

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        device = next(a.device.type for a in (*args, *kwargs.values()) if isinstance(a, Tensor))
        with torch.autocast(device, enabled=False):
            return function(*map(cast, args), **{k: cast(v) for k, v in kwargs.items()})

    return wrapper
