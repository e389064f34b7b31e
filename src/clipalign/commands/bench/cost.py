"""Cost of one method on one backbone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """Cost of one method on one backbone.

    Attributes:
        method, backbone: names.
        guide: value of --guide; None for the method's default.
        parameters: number of trained parameters.
        step: median seconds per optimiser step; None if the method takes no steps.
        memory: peak bytes during the steps (during predictions if there are none), model included. On a GPU:
            allocated memory; on a CPU: resident memory beyond that before the model was loaded.
        predict: median seconds per prediction for the same images.
        reason: why nothing was measured.
    """

    method: str
    backbone: str
    parameters: int = 0
    step: float | None = None
    memory: int | None = None
    predict: float | None = None
    reason: str | None = None
    guide: str | None = None

    @property
    def label(self) -> str:
        """Name in the table."""
        return self.method if self.guide is None else f"{self.method} --guide {self.guide}"
