"""In the wild: a new domain and new classes at once.

Train on the base classes of the source domains; test every class of the domain left out, among the names of all
classes. Data sets without a split follow CLIPood (Shu et al., 2023): the first half of the classes is base, and the
base rows of each source domain are split 80/20 with their own seed.
"""

from __future__ import annotations

from ..core.types import Episode, Source, TestSet
from ..data.splits import seed_hash
from .base import make_episode
from .rows import base_and_new, describe_rule, leave_one_domain_out, merge_rows, rows_of, split_domain


def in_the_wild(source: Source, target: str | None, seed: int) -> Episode:
    """Build the episode that leaves out `target` and the new classes; see `build_episode`."""
    index, domains = leave_one_domain_out("in-the-wild", source, target)
    base, new = base_and_new("in-the-wild", source, len(source.class_names) // 2)
    splits = [split_domain(source, domain, base, seed_hash(seed, domain, "base")) for domain in domains]
    all_classes = tuple(range(len(source.class_names)))
    return make_episode(
        "in-the-wild",
        source,
        target,
        train_classes=base,
        train_rows=merge_rows([train for train, _ in splits]),
        validation_rows=merge_rows([validation for _, validation in splits]),
        tests=[
            TestSet("all", rows_of(source, domains=[index]), all_classes),
            TestSet("base", rows_of(source, domains=[index], classes=base), all_classes),
            TestSet("new", rows_of(source, domains=[index], classes=new), all_classes),
        ],
        rule=describe_rule(source, f"CLIPood in the wild, 80/20 per domain, split seed {seed}"),
    )
