"""Metrics: registration, fields and their layout in tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pytest

from clipalign.core.errors import UserError
from clipalign.evaluation import Outputs
from clipalign.evaluation.metrics import (
    METRICS,
    ClassificationMetric,
    Field,
    MetricValue,
    RetrievalMetric,
    arrange,
    compute,
    headline,
    measured_fields,
    metric_fields,
    row_cells,
)
from clipalign.evaluation.results import ResultRow

OUTPUTS = Outputs(
    np.eye(3, dtype=np.float32), np.array([0, 1, 0]), np.arange(3), np.zeros(3, np.int64), "abc", ("x",)
)
ROW = ResultRow("erm", "pocket", "d", "p", None, "new", 0, 5, 10, 0.25, h=0.5, extra={"error": 0.125})


class Error(ClassificationMetric):
    fields = (Field("error", "error", higher_is_better=False),)

    def compute(self, outputs: Outputs) -> Mapping[str, MetricValue]:
        return {"error": 1 - float(outputs.correct.mean())}


@pytest.fixture(autouse=True)
def isolated() -> Iterator[None]:
    with METRICS.isolated():
        yield


def test_registered_metric_is_computed_and_listed() -> None:
    METRICS.add("error", Error)
    assert [field.name for field in metric_fields()][:5] == [
        "accuracy",
        "class_accuracy",
        "domain_accuracy",
        "top5",
        "error",
    ]
    assert compute([Error()], OUTPUTS) == {"error": pytest.approx(1 / 3)}
    assert [field.name for field in measured_fields([ROW])] == ["accuracy", "error", "h"]
    assert [field.name for field in measured_fields([ROW], (RetrievalMetric,))] == []
    assert [(field.name, value) for field, value in headline(ROW)] == [("accuracy", 0.25), ("h", 0.5)]


def test_undeclared_value_raises() -> None:
    class Careless(Error):
        def compute(self, outputs: Outputs) -> dict[str, float]:
            return {"error": 0.0, "other": 1.0}

    with pytest.raises(TypeError, match=r"Careless.compute returns \['other'\], not declared in fields"):
        compute([Careless()], OUTPUTS)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ((), "fields is empty"),
        ((Field("seed", "seed"),), 'result rows have a field "seed" already'),
        ((Field("top5", "top-5"),), 'result rows have a field "top5" already'),
        ((Field("My Error", "error"),), 'invalid field name "My Error"'),
    ],
)
def test_invalid_fields_raise(fields: tuple[Field, ...], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        METRICS.add("error", type("Bad", (Error,), {"fields": fields}))
    assert "error" not in METRICS


def test_class_that_is_no_metric_raises() -> None:
    with pytest.raises(TypeError, match="no subclass of ClassificationMetric"):
        METRICS.add("error", dict)  # type: ignore[arg-type]


def test_two_metrics_with_one_field_raise() -> None:
    METRICS.add("error", Error)
    METRICS.add("again", type("Again", (Error,), {}))
    with pytest.raises(UserError, match='metrics "again" and "error" both have a field "error"'):
        metric_fields()


def test_arrange_puts_variants_of_a_title_into_one_column() -> None:
    fields = [Field("r1", "R@1"), Field("nll", "NLL", unit="nats"), Field("m_r1", "R@1", variant="masked")]
    heads, variants = arrange(fields)
    assert heads == ["R@1", "NLL"]
    assert {variant: list(by_head) for variant, by_head in variants.items()} == {
        "": ["R@1", "NLL"],
        "masked": ["R@1"],
    }


def test_row_cells_have_a_line_per_measured_variant() -> None:
    fields = [
        Field("r1", "R@1"),
        Field("nll", "NLL", unit="nats", digits=3),
        Field("m_r1", "R@1", variant="m"),
    ]

    def cells(**extra: float) -> list[tuple[str, list[str]]]:
        row = ResultRow("erm", "pocket", "d", "p", None, "new", 0, 5, 10, None, extra=extra)
        return row_cells(row, fields)

    assert cells(r1=0.5, nll=2.0) == [("", ["50.0", "2.000"])]
    assert cells(r1=0.5, m_r1=0.25) == [("", ["50.0", ""]), ("m", ["25.0", ""])]
    assert cells() == [("", ["", ""])]
