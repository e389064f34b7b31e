"""One pass over test images: logits of every view, from which all numbers are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ..core.distributed import Ranks
from ..core.errors import UnseenClasses
from ..core.precision import Precision
from ..core.types import Batch, Preprocess, Source, Stage, TestSet
from .kept import KeptViews

Classifier = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Outputs:
    """What a classifier says of fixed views.

    Attributes:
        logits: [n, C] float32.
        labels: [n] int64, positions in the label space of the logits.
        rows: [n] int64, rows of the source, all views of a row next to each other.
        domains: [n] int64, indices into the source's `domain_names`.
    """

    logits: np.ndarray
    labels: np.ndarray
    rows: np.ndarray
    domains: np.ndarray

    def of(self, rows: np.ndarray) -> Outputs:
        """The part that belongs to some rows."""
        keep = np.isin(self.rows, rows)
        return Outputs(self.logits[keep], self.labels[keep], self.rows[keep], self.domains[keep])


@dataclass(frozen=True)
class EvalLoader:
    """Shows fixed views of rows to classifiers, each process its share.

    Attributes:
        source: the data set.
        preprocess: what the backbone wants to see.
        batch_size: images per forward pass.
        ranks, precision: where and in which type the forward pass runs.
        kept: views that need not be made again.
    """

    source: Source
    preprocess: Preprocess
    batch_size: int = 256
    ranks: Ranks = field(default_factory=Ranks)
    precision: Precision = field(default_factory=lambda: Precision("fp32", torch.device("cpu")))
    kept: KeptViews = field(default_factory=lambda: KeptViews(0))

    def batches(
        self, rows: np.ndarray, stage: Stage, classes: Sequence[int], share: bool = False
    ) -> Iterator[Batch]:
        """All views of the rows in order; with `share`, only this process's part of them.

        Args:
            rows: rows of the source whose labels are all in `classes`.
            stage: which fixed views.
            classes: the label space, positions in the source's `class_names`.
            share: whether the other processes take the rest.
        """
        views = self.source.views(stage)
        rows, draws = np.repeat(rows, views), np.tile(np.arange(views), len(rows))
        if share:
            part = self.ranks.share(len(rows))
            rows, draws = rows[part], draws[part]
        position = np.full(len(self.source.class_names), -1)
        position[list(classes)] = np.arange(len(classes))
        for start in range(0, len(rows), self.batch_size):
            here, drawn = rows[start : start + self.batch_size], draws[start : start + self.batch_size]
            yield Batch(
                images=self.kept.images(self.source, here, stage, drawn, self.preprocess),
                labels=torch.from_numpy(position[self.source.labels[here]]),
                domains=torch.from_numpy(self.source.domains[here]),
                rows=torch.from_numpy(here),
            ).to(self.ranks.device)

    @torch.no_grad()
    def outputs(
        self, classifier: Classifier, rows: np.ndarray, stage: Stage, classes: Sequence[int]
    ) -> Outputs:
        """Logits of all views of the rows, gathered from all processes."""
        parts: list[tuple[np.ndarray, ...]] = []
        for batch in self.batches(rows, stage, classes, share=True):
            with self.precision.autocast():
                logits = classifier(batch.images)
            kept = (logits.float(), batch.labels, batch.rows, batch.domains)
            parts.append(tuple(tensor.cpu().numpy() for tensor in kept))
        empty: tuple[np.ndarray, ...] = (
            np.empty((0, len(classes)), np.float32),
            *(np.empty(0, np.int64) for _ in range(3)),
        )
        mine = tuple(np.concatenate(column) for column in zip(*(parts or [empty]), strict=True))
        # A process without rows does not know how wide the others' logits are.
        everyone = [part for part in self.ranks.gather(mine) if len(part[0])] or [mine]
        return Outputs(*(np.concatenate(column) for column in zip(*everyone, strict=True)))


def outputs_by_test(
    views: EvalLoader, classifier_of: Callable[[tuple[str, ...]], Classifier], tests: Sequence[TestSet]
) -> dict[str, Outputs | UnseenClasses]:
    """Outputs of each test set by name, with one pass per label space: a set within another costs nothing.

    Args:
        views: shows the images.
        classifier_of: class names -> classifier.
        tests: test sets with unique names.

    Returns:
        By name; where the model cannot score the label space, what it says about that.
    """
    spaces: dict[tuple[tuple[int, ...], Stage], list[TestSet]] = {}
    for test in tests:
        spaces.setdefault((test.classes, test.stage), []).append(test)
    found: dict[str, Outputs | UnseenClasses] = {}
    for (classes, stage), members in spaces.items():
        try:
            classifier = classifier_of(tuple(views.source.class_names[c] for c in classes))
        except UnseenClasses as refusal:
            found |= {test.name: refusal for test in members}
            continue
        rows = np.unique(np.concatenate([test.rows for test in members]))
        together = views.outputs(classifier, rows, stage, classes)
        found |= {test.name: together.of(test.rows) for test in members}
    return {test.name: found[test.name] for test in tests}
