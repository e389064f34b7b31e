"""Domain shift: train on all domains but one, with all classes; test on the one left out.

Splits of data sets without their own follow DomainBed (Gulrajani and Lopez-Paz, 2021): 80/20 per domain, not
stratified. The test is on all rows of the target, or on the part that DomainBed ("in") or CLIPood and AlignCLIP
("out") test; numbers of different parts are not comparable.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from ..core.types import Episode, Source, TestSet
from ..data.splits import seed_hash
from .base import make_episode
from .rows import concatenate, cut_domain, left_out, rows_of, rule_of


def episode(
    source: Source, target: str | None, seed: int, target_split: Literal["all", "in", "out"] = "all"
) -> Episode:
    """The episode that leaves `target` out; see `build_episode`."""
    index, domains = left_out("domain-shift", source, target)
    cuts = [cut_domain(source, domain, None, seed_hash(seed, domain)) for domain in domains]
    kept, _ = cut_domain(source, index, None, seed_hash(seed, index))
    tested = rows_of(source, domains=[index])
    if target_split != "all":  # the test part of a split that comes with the data counts as held out
        tested = tested[np.isin(tested, kept) == (target_split == "in")]
    classes = tuple(range(len(source.class_names)))
    return make_episode(
        "domain-shift",
        source,
        target,
        train_classes=classes,
        train_rows=concatenate([train for train, _ in cuts]),
        validation_rows=concatenate([validation for _, validation in cuts]),
        tests=[TestSet(target_split, tested, classes)],
        rule=rule_of(source, f"DomainBed 80/20 per domain, split seed {seed}"),
    )
