"""Data sets: built in, published, or the user's own, each as one `Source`."""

from __future__ import annotations

from .registry import READERS, SOURCES, list_data, load_source, source_from
from .request import NamedSource, Reader, SourceRequest

__all__ = [
    "READERS",
    "SOURCES",
    "NamedSource",
    "Reader",
    "SourceRequest",
    "list_data",
    "load_source",
    "source_from",
]
