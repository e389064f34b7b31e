"""Base to new: train on half of the classes; test both halves, each among its own names.

As in CoOp and CoCoOp (Zhou et al., 2022), base is the first half, rounded up; base images are scored among base names,
and new images among new names. Data sets without a split are cut 50/20/30 per class.
"""

from __future__ import annotations

import numpy as np

from ..core.types import Episode, Source, TestSet
from ..data.splits import draw_shots
from .base import make_episode
from .rows import base_and_new, describe_rule, in_target, split_three_ways


def base_to_new(source: Source, target: str | None, seed: int, shots: int | None = None) -> Episode:
    """Build the episode of the base classes; `target` restricts the tests. See `build_episode`.

    As in CoOp, shots are drawn over all classes before the new ones are removed.
    """
    base, new = base_and_new("base-to-new", source, (len(source.class_names) + 1) // 2)
    train, validation, test = split_three_ways(source, seed)
    rule = describe_rule(source, f"50/20/30 per class, split seed {seed}")
    if shots is not None:
        train, validation = draw_shots(train, validation, source.labels, shots, seed)
        rule += f"; {shots} shots, seed {seed}"
    test = in_target(source, test, target)

    def of_classes(rows: np.ndarray, classes: tuple[int, ...]) -> np.ndarray:
        return np.sort(rows[np.isin(source.labels[rows], classes)])

    return make_episode(
        "base-to-new",
        source,
        target,
        train_classes=base,
        train_rows=of_classes(train, base),
        validation_rows=of_classes(validation, base),
        tests=[
            TestSet("base", of_classes(test, base), base),
            TestSet("new", of_classes(test, new), new),
        ],
        rule=rule,
    )
