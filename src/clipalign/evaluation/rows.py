"""Test sets -> scores -> result rows and the predictions behind them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.checkpoint import replacing
from ..core.errors import UnseenClasses
from ..core.types import Source, TestSet
from ..protocols.rows import usable
from ..runs.results import ResultRow, harmonic_mean
from .accuracy import Accuracy, accuracy
from .outputs import Classifier, EvalLoader, Outputs, outputs_by_test


@dataclass(frozen=True)
class Scored:
    """A test set, what the classifier said of it, and what that is worth.

    Attributes:
        test: the test set.
        outputs, accuracy: None where the model cannot score its label space.
        reason: why it cannot.
    """

    test: TestSet
    outputs: Outputs | None
    accuracy: Accuracy | None
    reason: str | None = None


def score(
    views: EvalLoader, classifier_of: Callable[[tuple[str, ...]], Classifier], tests: Sequence[TestSet]
) -> list[Scored]:
    """Score every test set, in one pass per label space."""
    found = outputs_by_test(views, classifier_of, tests)
    source, scores = views.source, []
    for test in tests:
        outputs = found[test.name]
        if isinstance(outputs, UnseenClasses):
            scores.append(Scored(test, None, None, str(outputs)))
        else:
            value = accuracy(outputs, names(source, test.classes), source.domain_names)
            scores.append(Scored(test, outputs, value))
    return scores


def result_rows(
    scores: Sequence[Scored],
    source: Source,
    facts: Mapping[str, Any],
    zeroshot: Mapping[str, float] | None = None,
) -> list[ResultRow]:
    """One row per test set.

    Args:
        scores: of one model.
        source: gives the class names.
        facts: the fields of `ResultRow` that all rows share.
        zeroshot: accuracy before training, by test set.
    """
    found = {scored.test.name: scored.accuracy for scored in scores}
    base, new = found.get("base"), found.get("new")
    h = harmonic_mean(base.top1, new.top1) if base and new else None
    rows = []
    for scored in scores:
        test = scored.test
        measured: dict[str, Any] = {
            "n": len(test.rows) * source.views(test.stage),
            "rows": len(test.rows),
            "accuracy": None,
            "reason": scored.reason,
        }
        if scored.accuracy is not None:
            measured = {
                "n": scored.accuracy.n,
                "rows": scored.accuracy.rows,
                "accuracy": scored.accuracy.top1,
                "top5": scored.accuracy.top5,
                "class_accuracy": scored.accuracy.class_mean,
                "domain_accuracy": scored.accuracy.per_domain,
                "h": h,
            }
        rows.append(
            ResultRow(
                **facts,
                **measured,
                test=test.name,
                classes=len(test.classes),
                label_space=digest(names(source, test.classes)),
                zeroshot=(zeroshot or {}).get(test.name),
            )
        )
    return rows


def domain_tests(source: Source) -> list[TestSet]:
    """Without a protocol: one test set per domain, with all its rows and all classes."""
    classes = tuple(range(len(source.class_names)))
    rows, _ = usable(source, np.arange(len(source.labels)))
    return [
        TestSet(name, rows[source.domains[rows] == d], classes)
        for d, name in enumerate(source.domain_names)
        if (source.domains[rows] == d).any()
    ]


def write_predictions(path: Path, scores: Sequence[Scored]) -> None:
    """Write what every view was taken for, so that tables can compare runs image by image.

    An .npz without pickles; for each test set NAME: NAME/rows [n], NAME/labels [n] and NAME/ranked
    [n, min(5, C)], the classes by falling logit. Labels and classes are positions in the source's class
    names.
    """
    arrays: dict[str, Any] = {}
    for scored in scores:
        if scored.outputs is None or scored.accuracy is None:
            continue
        classes = np.array(scored.test.classes)
        arrays[f"{scored.test.name}/rows"] = scored.outputs.rows.astype(np.int32)
        arrays[f"{scored.test.name}/labels"] = classes[scored.outputs.labels].astype(np.int32)
        arrays[f"{scored.test.name}/ranked"] = classes[scored.accuracy.ranked].astype(np.int32)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def names(source: Source, classes: Sequence[int]) -> tuple[str, ...]:
    """Names of class positions."""
    return tuple(source.class_names[c] for c in classes)


def digest(class_names: Sequence[str]) -> str:
    """Twelve characters that tell label spaces apart."""
    return hashlib.sha256("\n".join(class_names).encode()).hexdigest()[:12]
