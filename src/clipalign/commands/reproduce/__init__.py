"""Published tables and figures as studies, compared with measurements cell by cell."""

from __future__ import annotations

from .run import Reproduction, reproduce, run_reproduction

__all__ = ["Reproduction", "reproduce", "run_reproduction"]
