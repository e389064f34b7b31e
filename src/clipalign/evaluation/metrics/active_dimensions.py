"""Number of dimensions that the masks of captions keep."""

from __future__ import annotations

from ..disentanglement import active_dimensions
from ..outputs import RetrievalOutputs
from . import METRICS
from .base import Field, RetrievalMetric


@METRICS.register("active-dimensions")
class ActiveDimensions(RetrievalMetric):
    """Mean, minimum and maximum over captions of the dimensions with a mask of at least 0.5."""

    fields = tuple(
        Field(f"active_{name}", f"active, {name}", unit="dimensions", higher_is_better=None, table=False)
        for name in ("mean", "min", "max")
    )

    def compute(self, outputs: RetrievalOutputs) -> dict[str, float]:
        if outputs.masks is None:
            return {}
        active = active_dimensions(outputs.masks)
        return {"active_mean": active.mean, "active_min": active.minimum, "active_max": active.maximum}
