"""Harmonic mean of the accuracies on base and new classes."""

from __future__ import annotations

from collections.abc import Mapping

from ..outputs import Outputs
from . import METRICS
from .base import EpisodeMetric, Field


@METRICS.register("harmonic-mean")
class HarmonicMean(EpisodeMetric):
    """Harmonic mean of accuracy on the test sets "base" and "new" (CoCoOp, Zhou et al., CVPR 2022)."""

    fields = (Field("h", "h", headline=True, table=False, note="h: harmonic mean of base and new accuracy."),)

    def compute(self, outputs: Mapping[str, Outputs]) -> dict[str, float]:
        if not {"base", "new"} <= outputs.keys():
            return {}
        return {"h": harmonic_mean(*(float(outputs[name].correct.mean()) for name in ("base", "new")))}


def harmonic_mean(base: float, new: float) -> float:
    """Return 2 b n / (b + n), or 0 if both are 0.

    >>> harmonic_mean(0.5, 0.5), harmonic_mean(0.0, 0.0)
    (0.5, 0.0)
    """
    return 2 * base * new / (base + new) if base + new else 0.0
