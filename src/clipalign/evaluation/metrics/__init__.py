"""Metrics: one file each. Result rows, tables, cards and trackers take their fields from here.

A metric of another package is declared by an entry point in `clipalign.metrics`; see docs/extending.md.
"""

from __future__ import annotations

from ...core.errors import UserError
from ...core.registry import Registry
from .base import (
    ClassificationMetric,
    EpisodeMetric,
    Field,
    Metric,
    MetricValue,
    RetrievalMetric,
    check_metric,
)

__all__ = [
    "METRICS",
    "ClassificationMetric",
    "EpisodeMetric",
    "Field",
    "Metric",
    "MetricValue",
    "RetrievalMetric",
    "metric_fields",
]

METRICS: Registry[type[Metric]] = Registry(
    "metric", "clipalign.metrics", package=__name__, skip=("base",), check=check_metric
)


def metric_fields(*kinds: type[Metric]) -> dict[str, Field]:
    """Return the fields of all metrics by name, or of those that derive from one of `kinds`.

    Raises:
        UserError: two metrics share a field, or a metric of another package fails to load.
    """
    owners: dict[str, str] = {}
    fields: dict[str, Field] = {}
    for name, metric in METRICS.all().items():
        for field in metric.fields:
            if field.name in owners:
                raise UserError(
                    f'metrics "{owners[field.name]}" and "{name}" both have a field "{field.name}"'
                )
            owners[field.name] = name
            if not kinds or issubclass(metric, kinds):
                fields[field.name] = field
    return fields
