"""Domain shift: train on all domains but one, with all classes, and test on the one left out.

Data sets without a split follow DomainBed (Gulrajani and Lopez-Paz, 2021): 80/20 per domain, not stratified. The test
uses all rows of the target, or the part that DomainBed ("in") or CLIPood and AlignCLIP ("out") test. Results on
different parts are not comparable.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from ..core.types import Episode, Source, TestSet
from ..data.splits import seed_hash
from .base import make_episode
from .rows import describe_rule, leave_one_domain_out, merge_rows, rows_of, split_domain


def domain_shift(
    source: Source, target: str | None, seed: int, target_split: Literal["all", "in", "out"] = "all"
) -> Episode:
    """Build the episode that leaves `target` out; see `build_episode`."""
    index, domains = leave_one_domain_out("domain-shift", source, target)
    splits = [split_domain(source, domain, None, seed_hash(seed, domain)) for domain in domains]
    tested = rows_of(source, domains=[index])
    if target_split != "all":
        train, _ = split_domain(source, index, None, seed_hash(seed, index))
        # "out" is the complement, so the test part of a split that comes with the data belongs to it.
        tested = tested[np.isin(tested, train) == (target_split == "in")]
    classes = tuple(range(len(source.class_names)))
    return make_episode(
        "domain-shift",
        source,
        target,
        train_classes=classes,
        train_rows=merge_rows([train for train, _ in splits]),
        validation_rows=merge_rows([validation for _, validation in splits]),
        tests=[TestSet(target_split, tested, classes)],
        rule=describe_rule(source, f"DomainBed 80/20 per domain, split seed {seed}"),
    )
