"""What a run may measure while it trains: the source validation rows of its episode, never a test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from ..core.errors import UserError
from ..core.types import Batch, Episode
from ..data.batches import TrainBatches
from ..evaluation import EvalLoader
from ..evaluation.metrics.recall import recalls
from ..evaluation.retrieval import retrieval_loss, retrieval_outputs
from ..methods.base import Classifier, Method


@dataclass(frozen=True)
class SourceValidation:
    """The source rows of an episode, as `methods.base.Validation` describes.

    Attributes:
        episode: its training and validation rows.
        views: shows them.
        seed: of augmented training views.
    """

    episode: Episode
    views: EvalLoader
    seed: int = 0

    def batches(self) -> Iterator[Batch]:
        """All validation views, the same on every process."""
        return self.views.batches(self.episode.validation_rows, "validation", self.episode.train_classes)

    def training(self, augmented: int = 0) -> Iterator[Batch]:
        """All training rows; see `methods.base.Validation`."""
        episode = self.episode
        if not augmented:
            # Fixed views are those of evaluation: for photographs the transform without augmentation.
            yield from self.views.batches(episode.train_rows, "validation", episode.train_classes)
            return
        rows = len(episode.train_rows)
        steps = TrainBatches(episode, self.views.batch_size, self.seed, self.views.preprocess)
        for start in range(0, augmented * rows, self.views.batch_size):
            draws = np.arange(start, min(start + self.views.batch_size, augmented * rows))
            yield steps.batch(episode.train_rows[draws % rows], draws).to(self.views.ranks.device)

    def measure(self, classifier: Classifier) -> dict[str, float]:
        """Accuracy and mean cross-entropy over the training classes."""
        episode = self.episode
        outputs = self.views.outputs(classifier, episode.validation_rows, "validation", episode.train_classes)
        loss = F.cross_entropy(torch.from_numpy(outputs.logits), torch.from_numpy(outputs.labels))
        right = outputs.logits.argmax(axis=1) == outputs.labels
        return {"validation_accuracy": float(right.mean()), "validation_loss": float(loss)}

    def accuracy(self, classifier: Classifier) -> float:
        """See `methods.base.Validation`."""
        return self.measure(classifier)["validation_accuracy"]

    def of(self, method: Method) -> dict[str, float]:
        """`measure` of a method's classifier."""
        return self.measure(method.classifier(self.episode.class_names))


@dataclass(frozen=True)
class CaptionValidation(SourceValidation):
    """The same for captions; it has no classes to measure a classifier on."""

    def batches(self) -> Iterator[Batch]:
        """All validation images, without labels."""
        return self.views.batches(self.episode.validation_rows, "validation", ())

    def training(self, augmented: int = 0) -> Iterator[Batch]:
        """All training images, without labels; captions are not augmented."""
        return self.views.batches(self.episode.train_rows, "validation", ())

    def measure(self, classifier: Classifier) -> dict[str, float]:
        """Not to be had."""
        raise UserError("captions have no classes on which a classifier could be measured")

    def of(self, method: Method) -> dict[str, float]:
        """validation_recall (mean over tests and directions of recall@1) and validation_loss (CLIP's, over all
        validation captions with the method's scale); nothing where the data are for tests alone."""
        if not self.episode.caption_validation:
            return {}
        tests = retrieval_outputs(self.views, method, self.episode.caption_validation, "validation")
        ones = [value for o in tests for value in recalls(o.images, o.texts, o.owner, ks=(1,)).values()]
        losses = [retrieval_loss(outputs) for outputs in tests]
        return {
            "validation_recall": sum(ones) / len(ones),
            "validation_loss": sum(losses) / len(losses),
        }
