"""Studies: many runs from one file, several at once, over machines, through kills."""

from __future__ import annotations

from .run import Sweep, SweepConfig, run_sweep, sweep

__all__ = ["Sweep", "SweepConfig", "run_sweep", "sweep"]
