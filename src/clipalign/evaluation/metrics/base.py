"""The contract of a metric, and the description of its fields."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, Generic, TypeVar

from ..context import MetricContext, ModelOutputs
from ..outputs import Outputs, RetrievalOutputs
from ..results import ResultRow

OutputsT = TypeVar("OutputsT")
MetricValue = float | Mapping[str, float]  # a number, or one per group, such as per domain
FIELD_NAME = re.compile(r"[a-z][a-z0-9_@.-]*")


def printed_scale(unit: str) -> float:
    """Return the factor between stored and printed values of a unit.

    >>> printed_scale("%"), printed_scale("nats")
    (100.0, 1.0)
    """
    return 100.0 if unit == "%" else 1.0


@dataclass(frozen=True)
class Field:
    """One value of a metric: its name in result rows, and how to print it.

    Attributes:
        name: key in results.jsonl.
        title: head of a column.
        unit: "%" for shares in [0, 1], printed times 100; otherwise the unit of the value as it is stored.
        digits: decimals to print.
        higher_is_better: None if neither direction is.
        by: kind of group if the value is a mapping from groups to numbers, such as "domain".
        variant: appended to the name of a test set in tables. Fields with one title share a column, and have a line
            for each variant.
        note: sentence that defines the field, printed below tables.
        headline: print the value at the end of a run.
        tag: prefix of the names in trackers of a mapping's numbers. Default: `by`.
        table: give the value a table of means over seeds in reports; all values are in the table of every row.
    """

    name: str
    title: str
    unit: str = "%"
    digits: int = 1
    higher_is_better: bool | None = True
    by: str = ""
    variant: str = ""
    note: str = ""
    headline: bool = False
    table: bool = True
    tag: str = ""

    @property
    def arrow(self) -> str:
        """Better direction as an arrow; empty if neither is.

        >>> Field("ece", "ECE", higher_is_better=False).arrow
        '↓'
        """
        return {True: "↑", False: "↓", None: ""}[self.higher_is_better]

    @property
    def scale(self) -> float:
        """Factor between stored and printed values."""
        return printed_scale(self.unit)

    def labelled(self, value: float) -> str:
        """Format a value with title, variant and unit.

        >>> Field("fpr95", "FPR95", variant="MSP").labelled(0.5)
        'FPR95 (MSP) 50.0 %'
        """
        variant = f" ({self.variant})" if self.variant else ""
        return f"{self.title}{variant} {self.format(value)} {self.unit}".rstrip()

    def format(self, value: float | None) -> str:
        """Format a value without its unit; an empty text if there is none.

        >>> Field("top5", "top-5").format(0.25), Field("nll", "NLL", unit="nats", digits=3).format(0.25)
        ('25.0', '0.250')
        """
        return "" if value is None else f"{self.scale * value:.{self.digits}f}"


class Metric(ABC, Generic[OutputsT]):
    """A function of a model's outputs on test sets.

    Derive from `ClassificationMetric`, `RetrievalMetric`, `EpisodeMetric` or `ModelMetric`, which fix the type of the
    outputs.

    Attributes:
        fields: descriptions of the values that `compute` returns.
    """

    fields: ClassVar[tuple[Field, ...]]

    @abstractmethod
    def compute(self, outputs: OutputsT) -> Mapping[str, MetricValue]:
        """Return values by name of a field; fields may be left out if these outputs do not define them."""


class ClassificationMetric(Metric[Outputs]):
    """A metric of the logits on one test set of classes."""


class RetrievalMetric(Metric[RetrievalOutputs]):
    """A metric of the features of images and captions on one test set."""


class EpisodeMetric(Metric[Mapping[str, Outputs]]):
    """A metric across the test sets of an episode, by name of the test set. Its value is on each of their rows."""


class ModelMetric(Metric[ModelOutputs]):
    """A group of metrics that needs the model or further outputs; computed only if `--metrics` names it."""

    @abstractmethod
    def check(self, context: MetricContext) -> None:
        """Raise UserError with the reason if the group is undefined for this model and these test sets."""


ROW_KINDS = (ClassificationMetric, EpisodeMetric, RetrievalMetric)  # of every run, in the order of columns
KINDS = (*ROW_KINDS, ModelMetric)


def check_metric(name: str, metric: type[Metric]) -> None:
    """Raise TypeError unless a class is a metric whose fields do not clash with other facts of a result row."""
    if not (isinstance(metric, type) and issubclass(metric, KINDS)):
        raise TypeError(f"metric {name}: {metric!r} is no subclass of {', '.join(k.__name__ for k in KINDS)}")
    if not getattr(metric, "fields", ()):
        raise TypeError(f"metric {name}: {metric.__name__}.fields is empty")
    facts = {field.name for field in fields(ResultRow)}
    package = __name__.rpartition(".")[0]
    ours = metric.__module__.startswith(f"{package}.")
    for field in metric.fields:
        if not FIELD_NAME.fullmatch(field.name):
            raise TypeError(f'metric {name}: invalid field name "{field.name}"')
        if field.name in facts and not ours:
            raise TypeError(f'metric {name}: result rows have a field "{field.name}" already')
