"""Few-shot: train on K images of every class, test on all test images among all classes.

The draw is CoOp's (Zhou et al., 2022), to the row for data sets that come with its split files. Data sets
without splits of their own are cut 50/20/30 per class before it.
"""

from __future__ import annotations

import numpy as np

from ..core.types import Episode, Source, TestSet
from ..data.splits import draw_shots
from .base import make_episode
from .rows import rule_of, target_index, three_parts


def episode(source: Source, target: str | None, seed: int, shots: int = 16) -> Episode:
    """The episode of `shots` images per class; `target` restricts what is tested; see `build_episode`."""
    train, validation, test = three_parts(source, seed)
    train, validation = draw_shots(train, validation, source.labels, shots, seed)
    if target is not None:
        test = test[source.domains[test] == target_index(source, target)]
    classes = tuple(range(len(source.class_names)))
    return make_episode(
        "few-shot",
        source,
        target,
        train_classes=classes,
        train_rows=np.sort(train),
        validation_rows=np.sort(validation),
        tests=[TestSet("all", np.sort(test), classes)],
        rule=rule_of(source, f"50/20/30 per class, split seed {seed}") + f"; {shots} shots, seed {seed}",
    )
