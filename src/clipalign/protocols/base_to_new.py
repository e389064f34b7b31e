"""Base to new: train on half of the classes, test both halves, each among its own names.

As CoOp and CoCoOp do (Zhou et al., 2022): base is the first half, rounded up; base images are scored among
base names and new images among new names. Data sets without splits of their own are cut 50/20/30 per class.
"""

from __future__ import annotations

import numpy as np

from ..data.base import Source
from ..data.splits import seed_hash, three_way
from .base import (
    Episode,
    TestSet,
    concatenate,
    fixed_splits,
    halves,
    make_episode,
    rows_of,
    target_index,
)


def episode(source: Source, target: str | None, seed: int) -> Episode:
    """The episode of the base classes; `target` restricts what is tested; see `build_episode`."""
    base, new = halves("base-to-new", source, (len(source.class_names) + 1) // 2)
    splits = fixed_splits(source)
    if splits is not None:
        train, validation = splits.base_to_new_train, splits.base_to_new_validation
        test = splits.base_to_new_test
        rule = splits.rule
    else:
        parts = [
            three_way(rows_of(source, classes=[c]), seed_hash(seed, c, "base-to-new"))
            for c in range(len(source.class_names))
        ]
        train, validation, test = (concatenate([part[i] for part in parts]) for i in range(3))
        rule = f"50/20/30 per class, split seed {seed}"
    if target is not None:
        test = test[source.domains[test] == target_index(source, target)]

    def of(rows: np.ndarray, classes: tuple[int, ...]) -> np.ndarray:
        return rows[np.isin(source.labels[rows], classes)]

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
