"""Fixed views of rows in batches, and the logits of a classifier on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from ..core.distributed import Ranks
from ..core.errors import UnseenClasses
from ..core.precision import Precision
from ..core.types import Batch, Preprocess, Source, Stage, TestSet
from .outputs import Classifier, ClassifierFactory, Outputs
from .view_cache import ViewCache


@dataclass(frozen=True)
class EvalLoader:
    """Loads fixed views of rows; each process computes its share of the logits.

    Attributes:
        source: data set.
        preprocess: size and normalisation of the backbone's images.
        batch_size: images per forward pass.
        ranks: processes of the run.
        precision: type of the forward pass.
        cache: views kept in memory.
    """

    source: Source
    preprocess: Preprocess
    batch_size: int = 256
    ranks: Ranks = field(default_factory=Ranks)
    precision: Precision = field(default_factory=lambda: Precision("fp32", torch.device("cpu")))
    cache: ViewCache = field(default_factory=lambda: ViewCache(0))

    def batches(
        self, rows: np.ndarray, stage: Stage, classes: Sequence[int], share: bool = False
    ) -> Iterator[Batch]:
        """Yield all views of the rows in order.

        Args:
            rows: rows of the source with labels in `classes`.
            stage: which fixed views.
            classes: label space, as positions in the source's `class_names`.
            share: yield only the views of this process.
        """
        views = self.source.views(stage)
        rows, draws = np.repeat(rows, views), np.tile(np.arange(views), len(rows))  # [rows * views] each
        if share:
            part = self.ranks.share(len(rows))
            rows, draws = rows[part], draws[part]
        position = np.full(len(self.source.class_names), -1)
        position[list(classes)] = np.arange(len(classes))
        for start in range(0, len(rows), self.batch_size):
            batch, drawn = rows[start : start + self.batch_size], draws[start : start + self.batch_size]
            yield Batch(
                images=self.cache.images(self.source, batch, stage, drawn, self.preprocess),
                labels=torch.from_numpy(position[self.source.labels[batch]]),
                domains=torch.from_numpy(self.source.domains[batch]),
                rows=torch.from_numpy(batch),
            ).to(self.ranks.device)

    @torch.no_grad()
    def outputs(
        self, classifier: Classifier, rows: np.ndarray, stage: Stage, classes: Sequence[int]
    ) -> Outputs:
        """Return the logits of all views of the rows, gathered from all processes."""
        parts: list[tuple[np.ndarray, ...]] = []
        for batch in self.batches(rows, stage, classes, share=True):
            with self.precision.autocast():
                scores = classifier(batch.images)  # [B, C]
            tensors = (scores.float(), batch.labels, batch.rows, batch.domains)
            parts.append(tuple(tensor.cpu().numpy() for tensor in tensors))
        empty: tuple[np.ndarray, ...] = (
            np.empty((0, len(classes)), np.float32),
            *(np.empty(0, np.int64) for _ in range(3)),
        )
        local = tuple(np.concatenate(column) for column in zip(*(parts or [empty]), strict=True))
        # Drop empty shares: if the classifier gives features, their width is known only where it ran.
        gathered = [part for part in self.ranks.gather(local) if len(part[0])] or [local]
        logits, labels, found, domains = (np.concatenate(column) for column in zip(*gathered, strict=True))
        names = class_names(self.source, classes)
        return Outputs(logits, labels, found, domains, names, self.source.domain_names)


def outputs_by_test(
    loader: EvalLoader, classifier_of: ClassifierFactory, tests: Sequence[TestSet]
) -> dict[str, Outputs | UnseenClasses]:
    """Return the outputs of test sets, with one forward pass per label space.

    Args:
        loader: loads the images.
        classifier_of: returns the classifier over class names.
        tests: test sets with unique names; their rows may overlap.

    Returns:
        Outputs by name of the test set, or the exception of a model that cannot score its label space.
    """
    spaces: dict[tuple[tuple[int, ...], Stage], list[TestSet]] = {}
    for test in tests:
        spaces.setdefault((test.classes, test.stage), []).append(test)
    outputs: dict[str, Outputs | UnseenClasses] = {}
    for (classes, stage), members in spaces.items():
        try:
            classifier = classifier_of(class_names(loader.source, classes))
        except UnseenClasses as unseen:
            outputs |= {test.name: unseen for test in members}
            continue
        rows = np.unique(np.concatenate([test.rows for test in members]))
        union = loader.outputs(classifier, rows, stage, classes)
        outputs |= {test.name: union.select(test.rows) for test in members}
    return {test.name: outputs[test.name] for test in tests}


def class_names(source: Source, classes: Sequence[int]) -> tuple[str, ...]:
    """Return the names of class positions."""
    return tuple(source.class_names[c] for c in classes)
