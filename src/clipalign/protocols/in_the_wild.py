"""In the wild: a new domain and new classes at once.

Train on the base classes of the source domains; test every class of the domain left out, among the names of
all classes. Splits of data sets without their own follow CLIPood (Shu et al., 2023): the first half of the
classes is base, and the base part of each source domain is cut 80/20 with a seed of its own.
"""

from __future__ import annotations

import numpy as np

from ..data.base import Source
from ..data.splits import hold_out, seed_hash
from .base import Episode, TestSet, concatenate, fixed_splits, halves, left_out, make_episode, rows_of


def episode(source: Source, target: str | None, seed: int) -> Episode:
    """The episode that leaves `target` and the new classes out; see `build_episode`."""
    index, domains = left_out("in-the-wild", source, target)
    base, new = halves("in-the-wild", source, len(source.class_names) // 2)
    splits = fixed_splits(source)
    train: list[np.ndarray] = []
    validation: list[np.ndarray] = []
    for domain in domains:
        if splits is not None:
            kept, held = (
                rows[np.isin(source.labels[rows], base)]
                for rows in (splits.domain_train[domain], splits.domain_validation[domain])
            )
        else:
            kept, held = hold_out(
                rows_of(source, domains=[domain], classes=base), seed_hash(seed, domain, "base")
            )
        train.append(kept)
        validation.append(held)
    joint = tuple(range(len(source.class_names)))
    return make_episode(
        "in-the-wild",
        source,
        target,
        train_classes=base,
        train_rows=concatenate(train),
        validation_rows=concatenate(validation),
        tests=[
            TestSet("all", rows_of(source, domains=[index]), joint),
            TestSet("base", rows_of(source, domains=[index], classes=base), joint),
            TestSet("new", rows_of(source, domains=[index], classes=new), joint),
        ],
        rule=splits.rule if splits else f"CLIPood in the wild, 80/20 per domain, split seed {seed}",
    )
