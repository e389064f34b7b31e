"""Numbers from outputs: each file one function of what a classifier says of fixed views."""

from __future__ import annotations

from .accuracy import Accuracy, accuracy
from .outputs import EvalLoader, Outputs, outputs_by_test

__all__ = ["Accuracy", "EvalLoader", "Outputs", "accuracy", "outputs_by_test"]
