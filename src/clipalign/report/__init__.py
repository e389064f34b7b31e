"""Tables, curves and pictures from the folders of runs."""

from __future__ import annotations

from .write import Report, run_report, write_report

__all__ = ["Report", "run_report", "write_report"]
