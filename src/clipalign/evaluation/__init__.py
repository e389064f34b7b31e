"""Evaluation of models: outputs on test sets, metrics, and masks of texts."""

from __future__ import annotations

from .loader import EvalLoader, outputs_by_test
from .outputs import Outputs, RetrievalOutputs
from .view_cache import ViewCache

__all__ = ["EvalLoader", "Outputs", "RetrievalOutputs", "ViewCache", "outputs_by_test"]
