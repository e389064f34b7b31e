"""Few-shot: train on K images per class, and test on all test images among all classes.

The draw is CoOp's (Zhou et al., 2022), row by row for data sets with its split files. Data sets without a split are
first cut 50/20/30 per class.
"""

from __future__ import annotations

import numpy as np

from ..core.types import Episode, Source, TestSet
from ..data.splits import draw_shots
from .base import make_episode
from .rows import describe_rule, in_target, split_three_ways


def few_shot(source: Source, target: str | None, seed: int, shots: int = 16) -> Episode:
    """Build the episode of `shots` images per class; `target` restricts the test. See `build_episode`."""
    train, validation, test = split_three_ways(source, seed)
    train, validation = draw_shots(train, validation, source.labels, shots, seed)
    test = in_target(source, test, target)
    classes = tuple(range(len(source.class_names)))
    rule = describe_rule(source, f"50/20/30 per class, split seed {seed}")
    return make_episode(
        "few-shot",
        source,
        target,
        train_classes=classes,
        train_rows=np.sort(train),
        validation_rows=np.sort(validation),
        tests=[TestSet("all", np.sort(test), classes)],
        rule=f"{rule}; {shots} shots, seed {seed}",
    )
