"""The cost of one method on one backbone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """What one method costs on one backbone.

    Attributes:
        parameters: trained ones.
        step: median seconds of an optimiser step; None where the method takes none.
        memory: most bytes held during the steps (during a prediction where there are none), the model's own
            included: of the GPU, or resident ones of the process beyond those before the model was loaded.
        predict: median seconds of a prediction for the same images.
        reason: why nothing was measured.
    """

    method: str
    backbone: str
    parameters: int = 0
    step: float | None = None
    memory: int | None = None
    predict: float | None = None
    reason: str | None = None
