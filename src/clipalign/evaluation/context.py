"""A model and its test sets, as metrics receive them that need more than the logits of one test set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ..core.config import MetricOptions
from ..core.errors import UnseenClasses
from ..core.types import Source, TestSet
from .loader import EvalLoader, class_names, outputs_by_test
from .outputs import ClassifierFactory, Outputs

if TYPE_CHECKING:
    from ..methods.base import Method

T = TypeVar("T")


@dataclass(frozen=True)
class MetricContext:
    """A model, the test sets it is scored on, and what metrics compare it with.

    Attributes:
        loader: loads the images of the source.
        method: the model.
        classifier_of: class names -> classifier of the model.
        tests: test sets.
        templates: prompt templates.
        train_classes: base classes, as positions in the source's class names; empty without a protocol.
        validation_rows: source validation rows of the base classes; empty without a protocol.
        backbone_before: returns the backbone that training started from, as a zero-shot method; None if the model was
            not trained.
        options: hierarchy and masks.
    """

    loader: EvalLoader
    method: Method
    classifier_of: ClassifierFactory
    tests: Sequence[TestSet]
    templates: tuple[str, ...]
    train_classes: tuple[int, ...] = ()
    validation_rows: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    backbone_before: Callable[[], Method] | None = None
    options: MetricOptions = field(default_factory=MetricOptions)

    @property
    def source(self) -> Source:
        """Data set of the test sets."""
        return self.loader.source

    @cached_property
    def before(self) -> Method:
        """The zero-shot model that training started from; the model itself if it was not trained."""
        return self.method if self.backbone_before is None else self.backbone_before()

    @cached_property
    def rows(self) -> np.ndarray:
        """Rows of all test sets, ascending."""
        return np.unique(np.concatenate([test.rows for test in self.tests]))

    @cached_property
    def validation(self) -> Outputs | None:
        """Outputs on the source validation rows, among the base classes; None without such rows."""
        if len(self.validation_rows) == 0:
            return None
        try:
            classifier = self.classifier_of(class_names(self.source, self.train_classes))
        except UnseenClasses:
            return None
        return self.loader.outputs(classifier, self.validation_rows, "validation", self.train_classes)

    @cached_property
    def outputs_before(self) -> Mapping[str, Outputs]:
        """Outputs of the zero-shot model on each test set."""
        outputs = outputs_by_test(
            self.loader, lambda names: self.before.classifier(names, self.templates), self.tests
        )
        return {name: one for name, one in outputs.items() if isinstance(one, Outputs)}

    def once(self, key: str, compute: Callable[[], T]) -> T:
        """Return the result of a function that is called at most once per model, whatever the test set."""
        if key not in self._results:
            self._results[key] = compute()
        return self._results[key]

    @cached_property
    def _results(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class ModelOutputs:
    """Outputs of a model on one test set, with the model and its other test sets.

    Attributes:
        context: the model.
        test: the test set.
        outputs: its outputs.
        by_test: outputs by name of the test set; test sets that the model cannot score are missing.
    """

    context: MetricContext
    test: TestSet
    outputs: Outputs
    by_test: Mapping[str, Outputs]
