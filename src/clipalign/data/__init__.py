"""Data sets: shipped, published, or the user's own, each as one table of rows."""

from __future__ import annotations

from .registry import list_data, load_source, source_from

__all__ = ["list_data", "load_source", "source_from"]
