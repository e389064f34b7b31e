"""Select and split rows by domain, class and part: the operations that protocols are made of."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..core.errors import UserError
from ..core.types import Source
from ..data.splits import hold_out, seed_hash, three_way


def split_domain(
    source: Source, domain: int, classes: Iterable[int] | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Split the rows of a domain, restricted to some classes, into training and held-out rows.

    The split is the one that the data set ships; otherwise DomainBed's 80/20 with `seed`.
    """
    rows = rows_of(source, domains=[domain], classes=classes)
    splits, parts = source.splits, source.parts
    if splits is not None:
        train, held_out = splits.domain_train[domain], splits.domain_validation[domain]
        return np.intersect1d(rows, train), np.intersect1d(rows, held_out)
    if parts is not None:
        train, held_out = np.intersect1d(rows, parts["train"]), np.intersect1d(rows, parts["validation"])
        return (train, held_out) if len(held_out) else hold_out(train, seed)
    return hold_out(rows, seed)


def split_three_ways(source: Source, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split all rows into training, validation and test rows.

    The split is the one that the data set ships; otherwise 50/20/30 per class with `seed`.
    """
    splits, parts = source.splits, source.parts
    if splits is not None:
        return splits.base_to_new_train, splits.base_to_new_validation, splits.base_to_new_test
    if parts is not None:
        train, validation = parts["train"], parts["validation"]
        if len(validation) == 0:
            train, validation = map(np.sort, hold_out(train, seed_hash(seed, "validation")))
        return train, validation, parts["test"]
    by_class = [
        three_way(rows_of(source, classes=[c]), seed_hash(seed, c, "base-to-new"))
        for c in range(len(source.class_names))
    ]
    train, validation, test = (merge_rows(list(part)) for part in zip(*by_class, strict=True))
    return train, validation, test


def describe_rule(source: Source, default: str) -> str:
    """Return the description of a split; `default` is the published rule. It enters the split hash."""
    if source.splits is not None:
        return source.splits.rule
    return f"the data set's own split, or {default}" if source.parts is not None else default


def rows_of(
    source: Source, *, domains: Iterable[int] | None = None, classes: Iterable[int] | None = None
) -> np.ndarray:
    """Return the rows of some domains and classes (None: all), [n] int64, ascending."""
    selected = np.ones(len(source), dtype=bool)  # [N]
    if domains is not None:
        selected &= np.isin(source.domains, list(domains))
    if classes is not None:
        selected &= np.isin(source.labels, list(classes))
    return np.flatnonzero(selected)


def in_target(source: Source, rows: np.ndarray, target: str | None) -> np.ndarray:
    """Return the rows that are in the target domain; all of them without a target.

    Raises:
        UserError: unknown target.
    """
    return rows if target is None else rows[source.domains[rows] == target_index(source, target)]


def target_index(source: Source, target: str) -> int:
    """Return the index of a domain.

    Raises:
        UserError: unknown target.
    """
    if target not in source.domain_names:
        known = ", ".join(source.domain_names)
        raise UserError(f'--target: no domain "{target}" in {source.name}; choose one of: {known}')
    return source.domain_names.index(target)


def leave_one_domain_out(protocol: str, source: Source, target: str | None) -> tuple[int, tuple[int, ...]]:
    """Return the target domain and the source domains.

    Raises:
        UserError: fewer than two domains, or a missing or unknown target.
    """
    if len(source.domain_names) < 2:
        raise UserError(
            f"--protocol {protocol} leaves one domain out, but {source.name} has only one; "
            "--protocol holdout holds out a part of its images; or arrange --data as domain/class/image"
        )
    if target is None:
        known = ", ".join(source.domain_names)
        raise UserError(
            f"--protocol {protocol} needs --target, the domain to leave out; one of: {known}. "
            "Or train on all of them with --protocol holdout"
        )
    index = target_index(source, target)
    return index, tuple(d for d in range(len(source.domain_names)) if d != index)


def base_and_new(protocol: str, source: Source, base: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return base and new classes: the halves that the data set ships, or the first `base` classes and the others.

    Raises:
        UserError: fewer than two classes.
    """
    count = len(source.class_names)
    if count < 2:
        raise UserError(
            f"--protocol {protocol} needs at least two classes, one to train on and one to hold out; "
            f"{source.name} has {count}"
        )
    if source.splits is not None:
        return tuple(sorted(source.splits.base)), tuple(sorted(source.splits.new))
    return tuple(range(base)), tuple(range(base, count))


def merge_rows(parts: list[np.ndarray]) -> np.ndarray:
    """Concatenate rows, [n] int64, ascending."""
    return np.sort(np.concatenate([np.empty(0, np.int64), *parts]).astype(np.int64))
