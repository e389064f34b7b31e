"""Score the test sets of an episode: outputs, metrics, result rows and predictions."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.checkpoint import replacing
from ..core.errors import UnseenClasses
from ..core.types import Episode, Source, TestSet
from .context import MetricContext
from .loader import EvalLoader, class_names, outputs_by_test
from .measuring import measure
from .metrics import METRICS, ClassificationMetric, EpisodeMetric, MetricValue, ModelMetric, compute
from .outputs import ClassifierFactory, Outputs
from .results import ResultRow, make_row
from .retrieval import retrieval_outputs, retrieval_rows

if TYPE_CHECKING:
    from ..methods.base import Method


@dataclass(frozen=True)
class Score:
    """Outputs and metrics of one model on one test set.

    Attributes:
        test: test set.
        outputs: None if the model cannot score its label space.
        values: values of the metrics by field name; empty without outputs.
        reason: why there are no outputs.
    """

    test: TestSet
    outputs: Outputs | None
    values: Mapping[str, MetricValue] = field(default_factory=dict)
    reason: str | None = None

    @property
    def accuracy(self) -> float | None:
        """Top-1 accuracy; None without outputs."""
        return None if self.outputs is None else float(self.outputs.correct.mean())


def evaluate_episode(
    loader: EvalLoader,
    method: Method,
    episode: Episode,
    facts: Mapping[str, Any],
    zeroshot: Mapping[str, float] | None = None,
    predictions: Path | None = None,
    measures: tuple[Sequence[ModelMetric], MetricContext] | None = None,
) -> list[ResultRow]:
    """Score a method on all tests of an episode: retrieval for captions, else classification.

    Args:
        loader: loads the images of the episode's source.
        method: trained method.
        episode: test sets.
        facts: fields of `ResultRow` that all rows share.
        zeroshot: accuracy before training, by name of the test set.
        predictions: file for the predicted classes of each view; None writes none.
        measures: metrics of `--metrics` for a classifier, and what they need.
    """
    if episode.caption_tests:
        outputs = retrieval_outputs(loader, method, episode.caption_tests, "test")
        return retrieval_rows(episode.caption_tests, outputs, facts)
    scores = score(loader, method.classifier, episode.tests)
    if measures is not None:
        scores = with_measures(scores, *measures)
    if predictions is not None:
        write_predictions(predictions, scores)
    return result_rows(scores, episode.source, facts, zeroshot)


def score(
    loader: EvalLoader,
    classifier_of: ClassifierFactory,
    tests: Sequence[TestSet],
    metrics: Collection[str] | None = None,
) -> list[Score]:
    """Score test sets, with one forward pass per label space.

    Args:
        loader: loads the images.
        classifier_of: returns the classifier over class names.
        tests: test sets with unique names.
        metrics: names of metrics; default: all.
    """
    chosen = {name: metric for name, metric in METRICS.all().items() if metrics is None or name in metrics}
    of_test = [metric() for metric in chosen.values() if issubclass(metric, ClassificationMetric)]
    of_episode = [metric() for metric in chosen.values() if issubclass(metric, EpisodeMetric)]
    outputs = outputs_by_test(loader, classifier_of, tests)
    scored = {name: out for name, out in outputs.items() if isinstance(out, Outputs)}
    shared = compute(of_episode, scored)
    scores = []
    for test in tests:
        out = outputs[test.name]
        if isinstance(out, UnseenClasses):
            scores.append(Score(test, None, reason=str(out)))
        else:
            scores.append(Score(test, out, compute(of_test, out) | shared))
    return scores


def with_measures(
    scores: Sequence[Score], metrics: Sequence[ModelMetric], context: MetricContext
) -> list[Score]:
    """Add the values of metrics of the whole model to its scores."""
    outputs = {one.test.name: one.outputs for one in scores if one.outputs is not None}
    measured = measure(metrics, context, outputs)
    return [replace(one, values={**one.values, **measured.get(one.test.name, {})}) for one in scores]


def result_rows(
    scores: Sequence[Score],
    source: Source,
    facts: Mapping[str, Any],
    zeroshot: Mapping[str, float] | None = None,
) -> list[ResultRow]:
    """Return one result row per test set.

    Args:
        scores: scores of one model.
        source: data set of the test sets.
        facts: fields of `ResultRow` that all rows share.
        zeroshot: accuracy before training, by name of the test set.
    """
    rows = []
    for one in scores:
        test, names = one.test, class_names(source, one.test.classes)
        measured = {
            "test": test.name,
            "n": len(test.rows) * source.views(test.stage),
            "rows": len(test.rows),
            "accuracy": None,
            "classes": len(names),
            "label_space": label_space_digest(names),
            "zeroshot": (zeroshot or {}).get(test.name),
            "reason": one.reason,
        }
        rows.append(make_row(facts, {**measured, **one.values}))
    return rows


def label_space_digest(class_names: Sequence[str]) -> str:
    """Return twelve characters that identify a label space."""
    return hashlib.sha256("\n".join(class_names).encode()).hexdigest()[:12]


def domain_tests(source: Source) -> list[TestSet]:
    """Return one test set per domain, with all its rows and all classes; for data without a protocol."""
    classes = tuple(range(len(source.class_names)))
    rows = np.arange(len(source))
    rows = rows[~np.isin(rows, list(source.broken(rows)))]
    return [
        TestSet(name, rows[source.domains[rows] == d], classes)
        for d, name in enumerate(source.domain_names)
        if (source.domains[rows] == d).any()
    ]


def write_predictions(path: Path, scores: Sequence[Score]) -> None:
    """Write the predictions on every view, from which reports compare runs image by image.

    The file is an .npz without pickles. For each test set NAME it holds NAME/rows [n], NAME/labels [n], NAME/ranked
    [n, min(5, C)], the classes in order of falling logits, and NAME/probabilities [n, min(5, C)], their softmax
    probabilities in half precision. Labels and classes are positions in the source's class names.
    """
    arrays: dict[str, Any] = {}
    for one in scores:
        if one.outputs is None:
            continue
        classes = np.array(one.test.classes)  # [C]
        arrays[f"{one.test.name}/rows"] = one.outputs.rows.astype(np.int32)  # [n]
        arrays[f"{one.test.name}/labels"] = classes[one.outputs.labels].astype(np.int32)  # [n]
        arrays[f"{one.test.name}/ranked"] = classes[one.outputs.ranked].astype(np.int32)  # [n, 5]
        arrays[f"{one.test.name}/probabilities"] = one.outputs.probabilities.astype(np.float16)  # [n, 5]
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
