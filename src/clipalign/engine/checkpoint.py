"""Checkpoints of a run in progress."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from ..core.checkpoint import load_state, save_state
from ..methods.base import Method


class Stateful(Protocol):
    """An object whose state belongs to a checkpoint, such as an optimiser."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> None: ...


class Checkpoint:
    """The file with everything that the next step depends on.

    Random numbers are not part of it: batches, views and losses derive theirs from (seed, step).

    Args:
        path: file to write or read.
        method: the weights of the last step.
        parts: the other objects with a state, by name.
    """

    def __init__(self, path: Path, method: Method, **parts: Stateful) -> None:
        self.path, self.method, self.parts = path, method, parts

    def save(self, step: int) -> None:
        """Write the state after `step` optimiser steps."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        parts = {name: part.state_dict() for name, part in self.parts.items()}
        save_state(self.path, {"step": step, "method": self.method.state_dict(), **parts})

    def restore(self) -> int:
        """Load the state and return its number of steps; 0 if there is no checkpoint."""
        if not self.path.is_file():
            return 0
        state = load_state(self.path)
        self.method.load_state_dict(state["method"])
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        return int(state["step"])
