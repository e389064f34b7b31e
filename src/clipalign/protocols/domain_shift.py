"""Domain shift: train on all domains but one, with all classes; test on the one left out.

Splits of data sets without their own follow DomainBed (Gulrajani and Lopez-Paz, 2021): 80/20 per domain, not
stratified. The test is on all rows of the target; DomainBed and CLIPood each test on a part of it.
"""

from __future__ import annotations

import numpy as np

from ..data.base import Source
from ..data.splits import hold_out, seed_hash
from .base import Episode, TestSet, concatenate, fixed_splits, left_out, make_episode, rows_of


def episode(source: Source, target: str | None, seed: int) -> Episode:
    """The episode that leaves `target` out; see `build_episode`."""
    index, domains = left_out("domain-shift", source, target)
    splits = fixed_splits(source)
    train: list[np.ndarray] = []
    validation: list[np.ndarray] = []
    for domain in domains:
        if splits is not None:
            kept, held = splits.domain_train[domain], splits.domain_validation[domain]
        else:
            kept, held = hold_out(rows_of(source, domains=[domain]), seed_hash(seed, domain))
        train.append(kept)
        validation.append(held)
    classes = tuple(range(len(source.class_names)))
    return make_episode(
        "domain-shift",
        source,
        target,
        train_classes=classes,
        train_rows=concatenate(train),
        validation_rows=concatenate(validation),
        tests=[TestSet("all", rows_of(source, domains=[index]), classes)],
        rule=splits.rule if splits else f"DomainBed 80/20 per domain, split seed {seed}",
    )
