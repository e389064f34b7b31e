"""Cost of a step of each method, relative to plain fine-tuning."""

from __future__ import annotations

from .run import BenchConfig, run_bench

__all__ = ["BenchConfig", "run_bench"]
