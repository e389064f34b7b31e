"""ImageNet shift: train on K images of every ImageNet class, and test on ImageNet and its variants.

The draw is CoOp's. Each variant is a domain without training images, scored among its own classes: 1000 in V2 and
Sketch, 200 in A and R. CoOp selects models on ImageNet's validation images, which are the test here; validation rows
are therefore drawn from the remaining training images.
"""

from __future__ import annotations

import numpy as np

from ..core.errors import UserError
from ..core.types import Episode, Source, TestSet
from ..data.splits import draw_shots
from .base import make_episode
from .rows import target_index


def imagenet_shift(source: Source, target: str | None, seed: int, shots: int = 16) -> Episode:
    """Build the episode of all variants present, or of `target` only; see `build_episode`."""
    parts = source.parts
    if parts is None or len(np.unique(source.domains[parts["test"]])) < 2:
        raise UserError(
            "--protocol imagenet-shift needs --data imagenet-shift, or data with a split and with test images in "
            f"several domains, unlike {source.name}"
        )
    train, validation = draw_shots(parts["train"], parts["validation"], source.labels, shots, seed)
    domains = range(len(source.domain_names)) if target is None else [target_index(source, target)]
    tests = []
    for domain in domains:
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
