"""Studies: many runs from one file, in parallel or on several machines, resumed after interruptions."""

from __future__ import annotations

from .run import Sweep, SweepConfig, run_sweep, sweep

__all__ = ["Sweep", "SweepConfig", "run_sweep", "sweep"]
