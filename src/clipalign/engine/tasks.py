"""Training and test data of a run: images with classes, or images with captions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..backbone.model import Backbone
from ..core.config import TrainConfig
from ..core.distributed import Ranks
from ..core.errors import UserError
from ..core.types import Episode
from ..data.batches import CaptionTrainBatches, TrainBatches
from ..evaluation import EvalLoader
from ..evaluation.results import ResultRow
from ..evaluation.retrieval import retrieval_outputs, retrieval_rows
from ..evaluation.scoring import result_rows, score, write_predictions
from ..methods import Method
from ..runs.run import zeroshot
from .validation import CaptionValidation, ClassValidation, RunValidation

FALSE_NEGATIVE_STEPS = 20  # batches that estimate the false-negative rate


class Task(Protocol):
    """The parts of a run that differ between classes and captions."""

    @property
    def episode(self) -> Episode:
        """Training, validation and test rows."""
        ...

    @property
    def loader(self) -> EvalLoader:
        """Evaluation views of the source."""
        ...

    def train_batches(self, method: Method, config: TrainConfig, ranks: Ranks) -> TrainBatches:
        """Return the training batches of this process."""
        ...

    def validation(self, seed: int) -> RunValidation:
        """Return the validation during training; `seed` is that of augmented training views."""
        ...

    def zero_shot(self, backbone: Backbone) -> dict[str, float]:
        """Return the accuracy before training by test set, for tests whose forgetting is reported."""
        ...

    def describe(self, batches: TrainBatches | None) -> Iterator[str]:
        """Yield lines about the training data."""
        ...

    def evaluate(
        self,
        method: Method,
        facts: Mapping[str, Any],
        zero_shot: Mapping[str, float],
        predictions: Path | None,
    ) -> list[ResultRow]:
        """Score the tests.

        Args:
            method: trained.
            facts: fields of `ResultRow` that all rows share.
            zero_shot: result of `zero_shot`.
            predictions: file for the predictions of each view; None writes none.
        """
        ...


@dataclass(frozen=True)
class ClassTask:
    """Images with classes, scored by accuracy.

    Args:
        episode: rows and label spaces.
        loader: evaluation views.
        templates: prompt templates of the zero-shot classifier.
    """

    episode: Episode
    loader: EvalLoader
    templates: tuple[str, ...]

    def train_batches(self, method: Method, config: TrainConfig, ranks: Ranks) -> TrainBatches:
        """Return batches with equal shares of the source domains."""
        size, seed = config.optimiser.batch_size, config.run.seed
        return TrainBatches(self.episode, size, seed, self.loader.preprocess, ranks)

    def validation(self, seed: int) -> ClassValidation:
        """Return the validation on source domains and training classes."""
        return ClassValidation(self.episode, self.loader, seed)

    def zero_shot(self, backbone: Backbone) -> dict[str, float]:
        """Return the zero-shot accuracy of the tests that share no class with training."""
        episode = self.episode
        labels = episode.source.labels
        tests = [t for t in episode.tests if not np.isin(labels[t.rows], episode.train_classes).any()]
        classifier_of = zeroshot(backbone, self.templates).classifier
        scores = score(self.loader, classifier_of, tests, metrics=())
        return {one.test.name: one.accuracy for one in scores if one.accuracy is not None}

    def describe(self, batches: TrainBatches | None) -> Iterator[str]:
        """Yield the numbers of rows, domains and classes."""
        episode = self.episode
        yield (
            f"{len(episode.train_rows)} rows of {len(episode.train_domains)} domains and "
            f"{len(episode.train_classes)} classes to train, {len(episode.validation_rows)} to validate"
        )

    def evaluate(
        self,
        method: Method,
        facts: Mapping[str, Any],
        zero_shot: Mapping[str, float],
        predictions: Path | None,
    ) -> list[ResultRow]:
        """Return one row of accuracies per test set."""
        scores = score(self.loader, method.classifier, self.episode.tests)
        if predictions is not None:
            write_predictions(predictions, scores)
        return result_rows(scores, self.episode.source, facts, zero_shot)


@dataclass(frozen=True)
class CaptionTask:
    """Images with captions, scored by retrieval.

    Args:
        episode: rows and retrieval tests.
        loader: evaluation views.
    """

    episode: Episode
    loader: EvalLoader

    def train_batches(self, method: Method, config: TrainConfig, ranks: Ranks) -> CaptionTrainBatches:
        """Return batches of distinct images, with the part of each caption that the method trains on."""
        size, seed, use = config.optimiser.batch_size, config.run.seed, method.config.captions
        return CaptionTrainBatches(self.episode, size, seed, self.loader.preprocess, ranks, use)

    def validation(self, seed: int) -> CaptionValidation:
        """Return the validation on the validation captions."""
        return CaptionValidation(self.episode, self.loader)

    def zero_shot(self, backbone: Backbone) -> dict[str, float]:
        """Return nothing: without classes there is no forgetting to report."""
        return {}

    def describe(self, batches: TrainBatches | None) -> Iterator[str]:
        """Yield the number of images and, if known, the false-negative rate per batch."""
        episode = self.episode
        yield f"{len(episode.train_rows)} images with captions to train, {len(episode.validation_rows)} to validate"
        rate = false_negatives(batches) if isinstance(batches, CaptionTrainBatches) else None
        if rate is not None:
            yield (
                f"false negatives: on average a caption is true of {rate:.2f} other images of its batch, "
                "which the loss treats as negatives"
            )

    def evaluate(
        self,
        method: Method,
        facts: Mapping[str, Any],
        zero_shot: Mapping[str, float],
        predictions: Path | None,
    ) -> list[ResultRow]:
        """Return one row of recalls per test."""
        tests = self.episode.caption_tests
        return retrieval_rows(tests, retrieval_outputs(self.loader, method, tests, "test"), facts)


def make_task(episode: Episode, loader: EvalLoader, templates: tuple[str, ...]) -> Task:
    """Create the task of an episode: captions if it has retrieval tests, else classes."""
    if episode.caption_tests:
        return CaptionTask(episode, loader)
    return ClassTask(episode, loader, templates)


def check_task(method: Method, episode: Episode) -> None:
    """Check that the episode has the training data that the method needs.

    Raises:
        UserError: captions for a method that trains on classes, or the reverse; or no training rows.
    """
    captions = bool(episode.caption_tests)
    if method.iterates and captions != (method.learns_from == "captions"):
        wanted = "captions" if method.learns_from == "captions" else "classes"
        other = "--protocol retrieval" if wanted == "captions" else "a protocol of classes"
        raise UserError(
            f"--method {method.name} learns from {wanted}, and --protocol {episode.protocol} on "
            f"{episode.source.name} has none; it needs {other}, or another method"
        )
    if method.iterates and len(episode.train_rows) == 0:
        raise UserError(
            f"--data {episode.source.name} has only test rows; "
            f"train on other captions, then score the run with `clipalign eval RUN --data {episode.source.name}`"
        )


def false_negatives(batches: CaptionTrainBatches) -> float | None:
    """Estimate the false-negative rate per batch: the mean number of other images that a caption is true of.

    Returns:
        The mean over the first batches; None if the source does not know.
    """
    total = 0
    for step in range(FALSE_NEGATIVE_STEPS):
        rows, texts = batches.plan(step)
        count = batches.source.false_negatives(texts, rows)
        if count is None:
            return None
        total += count
    return total / (FALSE_NEGATIVE_STEPS * batches.batch_size)
