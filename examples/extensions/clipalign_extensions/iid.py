"""A protocol: train and test on the same domains and classes, with a random split of 60/20/20 per domain."""

from __future__ import annotations

import numpy as np

from clipalign.core.types import Episode, Source, TestSet
from clipalign.protocols.base import make_episode


def iid(source: Source, target: str | None, seed: int) -> Episode:
    """Build the episode; its accuracy bounds that of tests on other domains from above."""
    rng = np.random.default_rng(seed)
    train, validation, test = [], [], []
    for domain in range(len(source.domain_names)):
        rows = rng.permutation(np.flatnonzero(source.domains == domain))
        first, second = int(0.6 * len(rows)), int(0.8 * len(rows))
        train.append(rows[:first])
        validation.append(rows[first:second])
        test.append(rows[second:])
    classes = tuple(range(len(source.class_names)))
    return make_episode(
        "iid",
        source,
        target,
        train_classes=classes,
        train_rows=np.sort(np.concatenate(train)),
        validation_rows=np.sort(np.concatenate(validation)),
        tests=[TestSet("all", np.sort(np.concatenate(test)), classes)],
        rule=f"random 60/20/20 per domain, seed {seed}",
    )
