"""Number of dimensions that the masks of captions keep."""

from __future__ import annotations

from ..disentanglement import active
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
        width = active(outputs.masks)
        return {"active_mean": width.mean, "active_min": width.minimum, "active_max": width.maximum}
