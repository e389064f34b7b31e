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
from ..methods.capabilities import JointClassifier
from .outputs import Classifier, ClassifierFactory, Outputs
from .view_cache import ViewCache

SHUFFLE_SEED = 0  # of the batches of a `JointClassifier`; the same for every run


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

    def batches(self, rows: np.ndarray, stage: Stage, classes: Sequence[int]) -> Iterator[Batch]:
        """Yield all views of the rows in order.

        Args:
            rows: rows of the source with labels in `classes`.
            stage: which fixed views.
            classes: label space, as positions in the source's `class_names`.
        """
        views = np.arange(len(rows) * self.source.views(stage))
        yield from self._batches(rows, stage, classes, split(views, self.batch_size))

    def _batches(
        self, rows: np.ndarray, stage: Stage, classes: Sequence[int], parts: Sequence[np.ndarray]
    ) -> Iterator[Batch]:
        """Yield one batch per array of positions in the views of the rows, of which a row's are adjacent."""
        views = self.source.views(stage)
        position = np.full(len(self.source.class_names), -1)
        position[list(classes)] = np.arange(len(classes))
        for part in parts:
            batch, drawn = rows[part // views], part % views  # [B] each
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
        """Return the logits of all views of the rows in order, gathered from all processes.

        A `JointClassifier` receives shuffled batches of one domain, the same for any number of processes.
        """
        views = self.source.views(stage)
        if isinstance(classifier, JointClassifier):
            domains = np.repeat(self.source.domains[rows], views)  # [rows * views]
            chosen = batches_for(classifier, domains, self.batch_size)
            chosen = chosen[self.ranks.share(len(chosen))]
        else:
            share = self.ranks.share(len(rows) * views)
            chosen = split(np.arange(share.start, share.stop), self.batch_size)
        parts: list[tuple[np.ndarray, ...]] = []
        for indices, batch in zip(chosen, self._batches(rows, stage, classes, chosen), strict=True):
            with self.precision.autocast():
                scores = classifier(batch.images)  # [B, C]
            tensors = (scores.float(), batch.labels, batch.rows, batch.domains)
            parts.append((*(tensor.cpu().numpy() for tensor in tensors), indices))
        empty: tuple[np.ndarray, ...] = (
            np.empty((0, len(classes)), np.float32),
            *(np.empty(0, np.int64) for _ in range(4)),
        )
        local = tuple(np.concatenate(column) for column in zip(*(parts or [empty]), strict=True))
        # Drop empty shares: if the classifier gives features, their width is known only where it ran.
        gathered = [part for part in self.ranks.gather(local) if len(part[0])] or [local]
        *columns, order = (np.concatenate(column) for column in zip(*gathered, strict=True))
        logits, labels, found, domains = (column[order.argsort()] for column in columns)
        names = class_names(self.source, classes)
        return Outputs(logits, labels, found, domains, names, self.source.domain_names)


def split(positions: np.ndarray, size: int) -> list[np.ndarray]:
    """Split positions into consecutive arrays of `size`; the last one may be shorter."""
    return [positions[start : start + size] for start in range(0, len(positions), size)]


def batches_for(classifier: Classifier, domains: np.ndarray, size: int) -> list[np.ndarray]:
    """Return which images a classifier receives together.

    Args:
        classifier: any; a `JointClassifier` has its own batch size.
        domains: [n], domain of each image; all equal if unknown.
        size: images per batch of other classifiers.

    Returns:
        Positions of the images of each batch: `domain_batches` for a `JointClassifier`, else in order.
    """
    if isinstance(classifier, JointClassifier):
        return domain_batches(domains, classifier.batch_size)
    return split(np.arange(len(domains)), size)


def domain_batches(domains: np.ndarray, size: int) -> list[np.ndarray]:
    """Split views into batches of one domain each, in random order with a fixed seed.

    Batches of a domain differ in size by at most one: a short last batch would give a poor estimate of its domain.

    Args:
        domains: [n], domain of each view.
        size: most views per batch.

    Returns:
        Positions of the views of each batch.

    Example:
        >>> [batch.tolist() for batch in domain_batches(np.array([0, 0, 1, 0]), size=2)]
        [[3, 0], [1], [2]]
    """
    batches: list[np.ndarray] = []
    for domain in np.unique(domains):
        order = np.random.default_rng(SHUFFLE_SEED).permutation(np.flatnonzero(domains == domain))
        batches += np.array_split(order, -(-len(order) // size))
    return batches


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
