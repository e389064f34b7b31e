"""Base to new: train on half of the classes, test both halves, each among its own names.

As CoOp and CoCoOp do (Zhou et al., 2022): base is the first half, rounded up; base images are scored among
base names and new images among new names. Data sets without splits of their own are cut 50/20/30 per class.
"""

from __future__ import annotations

import numpy as np

from ..core.types import Episode, Source, TestSet
from ..data.splits import draw_shots
from .base import make_episode
from .rows import halves, rule_of, target_index, three_parts


def episode(source: Source, target: str | None, seed: int, shots: int | None = None) -> Episode:
    """The episode of the base classes; `target` restricts what is tested; see `build_episode`.

    Shots are drawn over all classes before the new ones are left out, as CoOp draws them.
    """
    base, new = halves("base-to-new", source, (len(source.class_names) + 1) // 2)
    train, validation, test = three_parts(source, seed)
    rule = rule_of(source, f"50/20/30 per class, split seed {seed}")
    if shots is not None:
        train, validation = draw_shots(train, validation, source.labels, shots, seed)
        rule += f"; {shots} shots, seed {seed}"
    if target is not None:
        test = test[source.domains[test] == target_index(source, target)]

    def of(rows: np.ndarray, classes: tuple[int, ...]) -> np.ndarray:
        return np.sort(rows[np.isin(source.labels[rows], classes)])

    return make_episode(
        "base-to-new",
        source,
        target,
        train_classes=base,
        train_rows=of(train, base),
        validation_rows=of(validation, base),
        tests=[TestSet("base", of(test, base), base), TestSet("new", of(test, new), new)],
        rule=rule,
    )
