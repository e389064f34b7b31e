"""The way out: a fine-tuned model in the form that other libraries load."""

from __future__ import annotations

from .command import ExportConfig, export, run_export

__all__ = ["ExportConfig", "export", "run_export"]
