"""The groups of `--metrics`: validate their names, and compute them for one model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from ..core.errors import UserError
from .context import MetricContext, ModelOutputs
from .metrics import MetricValue, ModelMetric, compute, metric_groups
from .outputs import Outputs

ALL = "all"


def chosen_groups(names: Sequence[str]) -> list[str]:
    """Return the groups that `--metrics` names.

    Raises:
        UserError: an unknown name.
    """
    known = metric_groups()
    if unknown := [name for name in names if name not in (*known, ALL)]:
        raise UserError(f'--metrics: unknown "{unknown[0]}"; choose from {", ".join(known)}, or {ALL}')
    return list(known) if ALL in names else list(names)


def applicable(context: MetricContext, report: Callable[[str], None]) -> list[ModelMetric]:
    """Return the metrics of `--metrics`, after a check that they are defined for the model and the data.

    Args:
        context: model, test sets and options.
        report: receives a line for each group that "all" leaves out.

    Raises:
        UserError: an unknown name, or a group that was named is undefined here.
    """
    names = context.options.metrics
    metrics: list[ModelMetric] = []
    for name in chosen_groups(names):
        metric = metric_groups()[name]()
        try:
            metric.check(context)
        except UserError as error:
            if ALL not in names:
                raise UserError(f"--metrics {name}: {error}") from None
            report(f"--metrics all: without {name}: {error}")
        else:
            metrics.append(metric)
    return metrics


@torch.no_grad()
def measure(
    metrics: Sequence[ModelMetric], context: MetricContext, outputs: Mapping[str, Outputs]
) -> dict[str, dict[str, MetricValue]]:
    """Return the values of metrics for each test set that the model can score, by name of the test set.

    Args:
        metrics: result of `applicable`.
        context: model and test sets.
        outputs: outputs by name of the test set.
    """
    return {
        test.name: compute(metrics, ModelOutputs(context, test, outputs[test.name], outputs))
        for test in context.tests
        if test.name in outputs
    }
