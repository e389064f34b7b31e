"""Validation on the source rows of an episode. Test rows are never used.

`methods.base.Validation` is the part that methods see: model selection in `Method.start` and `Method.finish`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch.nn import functional as F

from ..core.errors import UserError
from ..core.types import Augment, Batch, Episode
from ..data.batches import TrainBatches
from ..evaluation import EvalLoader
from ..evaluation.metrics.recall import recalls
from ..evaluation.retrieval import retrieval_loss, retrieval_outputs
from ..methods.base import Classifier, Method, Validation


class RunValidation(Validation, Protocol):
    """Validation as the training loop uses it."""

    def evaluate(self, method: Method) -> dict[str, float]:
        """Return validation metrics of a method by name, such as "validation_loss"."""
        ...


@dataclass(frozen=True)
class ClassValidation:
    """Accuracy and cross-entropy over the training classes.

    Args:
        episode: training and validation rows.
        loader: evaluation views.
        seed, augment: of augmented training views.
    """

    episode: Episode
    loader: EvalLoader
    seed: int = 0
    augment: Augment = "clip-crop"

    def batches(self) -> Iterator[Batch]:
        """Yield all validation views; every process gets all of them."""
        return self.loader.batches(self.episode.validation_rows, "validation", self.episode.train_classes)

    def training(self, augmented: int = 0) -> Iterator[Batch]:
        """Yield all training rows: fixed views, or `augmented` training views of each row."""
        episode = self.episode
        if not augmented:
            # "validation" views are made without augmentation.
            yield from self.loader.batches(episode.train_rows, "validation", episode.train_classes)
            return
        rows = len(episode.train_rows)
        preprocess = replace(self.loader.preprocess, augment=self.augment)
        batches = TrainBatches(episode, self.loader.batch_size, self.seed, preprocess)
        for start in range(0, augmented * rows, self.loader.batch_size):
            draws = np.arange(start, min(start + self.loader.batch_size, augmented * rows))
            yield batches.batch(episode.train_rows[draws % rows], draws).to(self.loader.ranks.device)

    def measure(self, classifier: Classifier) -> dict[str, float]:
        """Return validation_accuracy and validation_loss (mean cross-entropy) of a classifier.

        With several source domains also validation_domain_accuracy, the mean of their accuracies (DomainBed's
        training-domain validation).
        """
        episode = self.episode
        outputs = self.loader.outputs(
            classifier, episode.validation_rows, "validation", episode.train_classes
        )
        loss = F.cross_entropy(torch.from_numpy(outputs.logits), torch.from_numpy(outputs.labels))
        correct = outputs.logits.argmax(axis=1) == outputs.labels  # [n]
        metrics = {"validation_accuracy": float(correct.mean()), "validation_loss": float(loss)}
        domains = np.unique(outputs.domains)
        if len(domains) > 1:
            by_domain = [correct[outputs.domains == domain].mean() for domain in domains]
            metrics["validation_domain_accuracy"] = float(np.mean(by_domain))
        return metrics

    def accuracy(self, classifier: Classifier) -> float:
        """Return the validation accuracy of a classifier, in [0, 1]."""
        return self.measure(classifier)["validation_accuracy"]

    def evaluate(self, method: Method) -> dict[str, float]:
        """Return `measure` of the method's classifier over the training classes."""
        return self.measure(method.classifier(self.episode.class_names))


@dataclass(frozen=True)
class CaptionValidation:
    """Recall and contrastive loss over the validation captions.

    Args:
        episode: training and validation rows.
        loader: evaluation views.
    """

    episode: Episode
    loader: EvalLoader

    def batches(self) -> Iterator[Batch]:
        """Yield all validation images, without labels."""
        return self.loader.batches(self.episode.validation_rows, "validation", ())

    def training(self, augmented: int = 0) -> Iterator[Batch]:
        """Yield all training images, without labels and without augmentation."""
        return self.loader.batches(self.episode.train_rows, "validation", ())

    def measure(self, classifier: Classifier) -> dict[str, float]:
        """Unsupported: captions have no classes."""
        raise UserError("a classifier cannot be evaluated on captions, which have no classes")

    def accuracy(self, classifier: Classifier) -> float:
        """Unsupported: captions have no classes."""
        return self.measure(classifier)["validation_accuracy"]

    def evaluate(self, method: Method) -> dict[str, float]:
        """Return validation_recall and validation_loss; an empty dict if there are no validation captions.

        validation_recall is the mean of recall@1 over tests and directions, validation_loss the CLIP loss over all
        validation captions at the method's logit scale.
        """
        if not self.episode.caption_validation:
            return {}
        tests = retrieval_outputs(self.loader, method, self.episode.caption_validation, "validation")
        recall = [value for o in tests for value in recalls(o.images, o.texts, o.owner, ks=(1,)).values()]
        losses = [retrieval_loss(outputs) for outputs in tests]
        return {
            "validation_recall": sum(recall) / len(recall),
            "validation_loss": sum(losses) / len(losses),
        }


def make_validation(
    episode: Episode, loader: EvalLoader, seed: int, augment: Augment = "clip-crop"
) -> RunValidation:
    """Create the validation of an episode; `seed` and `augment` are those of augmented training views."""
    if episode.caption_tests:
        return CaptionValidation(episode, loader)
    return ClassValidation(episode, loader, seed, augment)
