"""What a run learns and is scored on: the classes of images, or their captions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..backbone.model import Backbone
from ..core.config import TrainConfig
from ..core.distributed import Ranks
from ..core.errors import UserError
from ..core.types import Episode, Source
from ..data.batches import CaptionTrainBatches, TrainBatches
from ..data.captions.sentences import captions_only
from ..evaluation import EvalLoader
from ..evaluation.results import ResultRow
from ..evaluation.retrieval import retrieval_outputs, retrieval_rows
from ..evaluation.scoring import result_rows, score, write_predictions
from ..methods import Method
from ..protocols import default_protocol
from ..runs.run import zeroshot
from .validation import CaptionValidation, SourceValidation

FALSE_NEGATIVES_OVER = 20  # steps whose batches are looked through


class ClassTask:
    """Images and their classes.

    Args:
        episode: rows and label spaces.
        views: shows fixed views.
        templates: prompt templates.
    """

    def __init__(self, episode: Episode, views: EvalLoader, templates: Sequence[str]) -> None:
        self.episode, self.views, self.templates = episode, views, tuple(templates)

    def steps(self, method: Method, config: TrainConfig, ranks: Ranks) -> TrainBatches:
        """The batches to train on."""
        return TrainBatches(
            self.episode, config.optimiser.batch_size, config.run.seed, self.views.preprocess, ranks
        )

    def validation(self, seed: int) -> SourceValidation:
        """What may be measured while training."""
        return SourceValidation(self.episode, self.views, seed)

    def before(self, backbone: Backbone) -> dict[str, float]:
        """Accuracy before training on the test sets none of whose classes is trained; what is to be kept."""
        episode = self.episode
        labels = episode.source.labels
        tests = [t for t in episode.tests if not np.isin(labels[t.rows], episode.train_classes).any()]
        classifier_of = zeroshot(backbone, self.templates).classifier
        scores = score(self.views, classifier_of, tests, metrics=())
        return {one.test.name: one.accuracy for one in scores if one.accuracy is not None}

    def introduction(self, steps: TrainBatches | None) -> Iterator[str]:
        """What there is to learn from."""
        episode = self.episode
        yield (
            f"{len(episode.train_rows)} rows of {len(episode.train_domains)} domains and "
            f"{len(episode.train_classes)} classes to train, {len(episode.validation_rows)} to validate"
        )

    def score(
        self, method: Method, facts: Mapping[str, Any], before: Mapping[str, float], predictions: Path | None
    ) -> list[ResultRow]:
        """Rows of the tests; what every view was taken for goes to `predictions`."""
        scores = score(self.views, method.classifier, self.episode.tests)
        if predictions is not None:
            write_predictions(predictions, scores)
        return result_rows(scores, self.episode.source, facts, before)


class CaptionTask(ClassTask):
    """Images and their captions, which are to find each other."""

    def steps(self, method: Method, config: TrainConfig, ranks: Ranks) -> CaptionTrainBatches:
        """The batches to train on, with as much of each caption as the method wants."""
        use = method.config.captions
        size, seed = config.optimiser.batch_size, config.run.seed
        return CaptionTrainBatches(self.episode, size, seed, self.views.preprocess, ranks, use)

    def validation(self, seed: int) -> CaptionValidation:
        """What may be measured while training."""
        return CaptionValidation(self.episode, self.views, seed)

    def before(self, backbone: Backbone) -> dict[str, float]:
        """Nothing: there are no classes to forget."""
        return {}

    def introduction(self, steps: TrainBatches | None) -> Iterator[str]:
        """What there is to learn from, and how often a batch punishes what is true."""
        episode = self.episode
        yield f"{len(episode.train_rows)} images with captions to train, {len(episode.validation_rows)} to validate"
        share = false_negatives(steps) if isinstance(steps, CaptionTrainBatches) else None
        if share is not None:
            yield (
                f"in a batch a caption is true of {share:.2f} other images on average, "
                "which the loss takes for wrong ones"
            )

    def score(
        self, method: Method, facts: Mapping[str, Any], before: Mapping[str, float], predictions: Path | None
    ) -> list[ResultRow]:
        """Rows of the tests."""
        tests = self.episode.caption_tests
        return retrieval_rows(tests, retrieval_outputs(self.views, method, tests, "test"), facts)


def task_of(episode: Episode, views: EvalLoader, templates: Sequence[str]) -> ClassTask:
    """The task of an episode."""
    kind = CaptionTask if episode.caption_tests else ClassTask
    return kind(episode, views, templates)


def protocol_of(told: str | None, method: type[Method], source: Source) -> str:
    """The protocol of a run: as told, or retrieval where there are captions to learn from, or nothing else."""
    return told or default_protocol(method.learns_from == "captions" or captions_only(source))


def check_task(method: Method, episode: Episode) -> None:
    """Refuse a method that learns from what the data do not have.

    Raises:
        UserError: captions for a method of classes, or the reverse; data that are for tests alone.
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
            f"--data {episode.source.name} is for tests alone: it has nothing to train on; "
            "train on other captions, then `clipalign eval RUN --data` this"
        )


def false_negatives(steps: CaptionTrainBatches) -> float | None:
    """Other images of its batch that a caption is true of, mean over the first batches; None where the data
    cannot say."""
    source, found = steps.source, 0
    for step in range(FALSE_NEGATIVES_OVER):
        rows, texts = steps.plan(step)
        count = source.false_negatives(texts, rows)
        if count is None:
            return None
        found += count
    return found / (FALSE_NEGATIVES_OVER * steps.batch_size)
