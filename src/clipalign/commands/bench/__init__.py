"""What a step of each method costs beside plain fine-tuning, each method in a process of its own."""

from __future__ import annotations

from .run import BenchConfig, run_bench

__all__ = ["BenchConfig", "run_bench"]
