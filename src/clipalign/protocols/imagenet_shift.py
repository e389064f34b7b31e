"""ImageNet shift: train on K images of every ImageNet class, test on ImageNet and its variants.

The draw is CoOp's. Each variant is a domain without training images, and is scored among the classes that it
has: 1000 in V2 and Sketch, 200 in A and R. Since ImageNet's validation images are the test, validation rows are
drawn from the training images that are left over, not from them as CoOp does.
"""

from __future__ import annotations

import numpy as np

from ..core.errors import UserError
from ..core.types import Episode, Source, TestSet
from ..data.splits import draw_shots
from .base import make_episode
from .rows import target_index


def episode(source: Source, target: str | None, seed: int, shots: int = 16) -> Episode:
    """The episode of all variants at hand, or of `target` alone; see `build_episode`."""
    parts = source.parts
    if parts is None or len(np.unique(source.domains[parts["test"]])) < 2:
        raise UserError(
            "--protocol imagenet-shift needs --data imagenet-shift, or data with a split and test images in "
            f"several domains; {source.name} is not such"
        )
    train, validation = draw_shots(parts["train"], parts["validation"], source.labels, shots, seed)
    wanted = range(len(source.domain_names)) if target is None else [target_index(source, target)]
    tests = []
    for domain in wanted:
        rows = parts["test"][source.domains[parts["test"]] == domain]
        if len(rows):
            classes = tuple(np.unique(source.labels[rows]).tolist())
            tests.append(TestSet(source.domain_names[domain], np.sort(rows), classes))
    return make_episode(
        "imagenet-shift",
        source,
        target,
        train_classes=tuple(range(len(source.class_names))),
        train_rows=np.sort(train),
        validation_rows=np.sort(validation),
        tests=tests,
        rule=f"{shots} shots of the training images, seed {seed}",
    )
