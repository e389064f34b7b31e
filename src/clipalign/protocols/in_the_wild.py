"""In the wild: a new domain and new classes at once.

Train on the base classes of the source domains; test every class of the domain left out, among the names of
all classes. Splits of data sets without their own follow CLIPood (Shu et al., 2023): the first half of the
classes is base, and the base part of each source domain is cut 80/20 with a seed of its own.
"""

from __future__ import annotations

from ..core.types import Episode, Source, TestSet
from ..data.splits import seed_hash
from .base import make_episode
from .rows import concatenate, cut_domain, halves, left_out, rows_of, rule_of


def episode(source: Source, target: str | None, seed: int) -> Episode:
    """The episode that leaves `target` and the new classes out; see `build_episode`."""
    index, domains = left_out("in-the-wild", source, target)
    base, new = halves("in-the-wild", source, len(source.class_names) // 2)
    cuts = [cut_domain(source, domain, base, seed_hash(seed, domain, "base")) for domain in domains]
    joint = tuple(range(len(source.class_names)))
    return make_episode(
        "in-the-wild",
        source,
        target,
        train_classes=base,
        train_rows=concatenate([train for train, _ in cuts]),
        validation_rows=concatenate([validation for _, validation in cuts]),
        tests=[
            TestSet("all", rows_of(source, domains=[index]), joint),
            TestSet("base", rows_of(source, domains=[index], classes=base), joint),
            TestSet("new", rows_of(source, domains=[index], classes=new), joint),
        ],
        rule=rule_of(source, f"CLIPood in the wild, 80/20 per domain, split seed {seed}"),
    )
