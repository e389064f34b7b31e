"""The version of the package; a test keeps pyproject.toml and CITATION.cff equal to it."""

from __future__ import annotations

__version__ = "0.1.0"
