"""Metrics, one file each. Result rows, tables, cards and trackers take their fields from here.

Metrics of logits or features are computed in every run; groups (`ModelMetric`) only if `--metrics` names them.
A metric of another package is declared by an entry point in `clipalign.metrics`; see docs/extending.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...core.errors import UserError
from ...core.registry import Registry
from ..results import ResultRow
from .base import (
    KINDS,
    ROW_KINDS,
    ClassificationMetric,
    EpisodeMetric,
    Field,
    Metric,
    MetricValue,
    ModelMetric,
    OutputsT,
    RetrievalMetric,
    check_metric,
)

__all__ = [
    "METRICS",
    "ROW_KINDS",
    "ClassificationMetric",
    "EpisodeMetric",
    "Field",
    "Metric",
    "MetricValue",
    "ModelMetric",
    "RetrievalMetric",
    "arrange",
    "compute",
    "headline",
    "measured_fields",
    "metric_fields",
    "metric_groups",
    "model_values",
    "row_cells",
]

# Attention is measured on maps, and so by a package above this one.
ABOVE = {"attention": "clipalign.explain.attention_metrics"}
METRICS: Registry[type[Metric]] = Registry(
    "metric", "clipalign.metrics", ABOVE, package=__name__, skip=("base",), check=check_metric
)


def compute(metrics: Iterable[Metric[OutputsT]], outputs: OutputsT) -> dict[str, MetricValue]:
    """Return the values of metrics by field name.

    Raises:
        TypeError: a metric returns a value that it does not declare.
    """
    values: dict[str, MetricValue] = {}
    for metric in metrics:
        computed = metric.compute(outputs)
        if undeclared := computed.keys() - {field.name for field in metric.fields}:
            raise TypeError(
                f"{type(metric).__name__}.compute returns {sorted(undeclared)}, not declared in fields"
            )
        values |= computed
    return values


def metric_fields(kinds: tuple[type[Metric], ...] = KINDS) -> list[Field]:
    """Return the fields of all metrics: of classification, of episodes, of retrieval.

    Args:
        kinds: base classes of the metrics to take.

    Raises:
        UserError: two metrics share a field, or a metric of another package fails to load.
    """
    metrics = METRICS.all()
    owners: dict[str, str] = {}
    for name, metric in metrics.items():
        for field in metric.fields:
            if field.name in owners:
                raise UserError(
                    f'metrics "{owners[field.name]}" and "{name}" both have a field "{field.name}"'
                )
            owners[field.name] = name
    ordered = sorted(
        metrics.values(), key=lambda metric: [issubclass(metric, kind) for kind in KINDS].index(True)
    )
    return [field for metric in ordered if issubclass(metric, kinds) for field in metric.fields]


def measured_fields(rows: Iterable[ResultRow], kinds: tuple[type[Metric], ...] = KINDS) -> list[Field]:
    """Return the fields for which at least one row has a number; fields with a number per group are left out."""
    rows = list(rows)
    return [
        field
        for field in metric_fields(kinds)
        if not field.by and any(row.value(field.name) is not None for row in rows)
    ]


def metric_groups() -> dict[str, type[ModelMetric]]:
    """Return the metrics that `--metrics` names, by name."""
    return {name: metric for name, metric in sorted(METRICS.all().items()) if issubclass(metric, ModelMetric)}


def model_values(row: ResultRow) -> dict[str, list[tuple[Field, float]]]:
    """Return the values of the groups of `--metrics` that a row has, with their fields, by group."""
    groups = {
        name: [
            (field, value)
            for field in metric.fields
            if not field.by and field.table and (value := row.value(field.name)) is not None
        ]
        for name, metric in metric_groups().items()
    }
    return {name: values for name, values in groups.items() if values}


def headline(row: ResultRow) -> list[tuple[Field, float]]:
    """Return the values of a row that commands print, with their fields."""
    values = [(field, row.value(field.name)) for field in metric_fields() if field.headline]
    return [(field, value) for field, value in values if value is not None]


def row_cells(row: ResultRow, fields: Sequence[Field]) -> list[tuple[str, list[str]]]:
    """Format the values of a row as lines of a table with the heads of `arrange`.

    Returns:
        A variant and its cells per line; a single empty line if the row has no values.
    """
    heads, variants = arrange(fields)
    lines = []
    for variant, by_head in variants.items():
        by_column = map(by_head.get, heads)
        cells = ["" if field is None else field.format(row.value(field.name)) for field in by_column]
        if any(cells):
            lines.append((variant, cells))
    return lines or [("", [""] * len(heads))]


def arrange(fields: Iterable[Field]) -> tuple[list[str], dict[str, dict[str, Field]]]:
    """Arrange fields for a table.

    Returns:
        The heads of the columns, and for each variant its fields by head.
    """
    heads: list[str] = []
    variants: dict[str, dict[str, Field]] = {}
    for field in fields:
        if field.title not in heads:
            heads.append(field.title)
        variants.setdefault(field.variant, {})[field.title] = field
    return heads, variants
