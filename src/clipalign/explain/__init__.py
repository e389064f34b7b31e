"""Where a model looks, and where it finds a text: maps, their scores, their pictures."""

from __future__ import annotations

from .command import explain, run_explain

__all__ = ["explain", "run_explain"]
