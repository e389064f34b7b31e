"""Choose options by nested validation: random search or TPE, resumed after interruptions."""

from __future__ import annotations

from .run import Tuning, run_tune, tune

__all__ = ["Tuning", "run_tune", "tune"]
