"""Rows of a data set by domain, class and part: what protocols cut splits from."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..core.errors import UserError
from ..core.types import Source
from ..data.splits import hold_out, seed_hash, three_way


def cut_domain(
    source: Source, domain: int, classes: Iterable[int] | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a domain (of some classes) to train on and to hold out.

    They are those of the data set's own split; without one, DomainBed's 80/20 with this seed.
    """
    rows = rows_of(source, domains=[domain], classes=classes)
    splits, parts = source.splits, source.parts
    if splits is not None:
        return np.intersect1d(rows, splits.domain_train[domain]), np.intersect1d(
            rows, splits.domain_validation[domain]
        )
    if parts is not None:
        train, held = np.intersect1d(rows, parts["train"]), np.intersect1d(rows, parts["validation"])
        return (train, held) if len(held) else hold_out(train, seed)
    return hold_out(rows, seed)


def three_parts(source: Source, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows to train on, to validate on and to test, over all domains and classes.

    They are those of the data set's own split; without one, 50/20/30 per class.
    """
    splits, parts = source.splits, source.parts
    if splits is not None:
        return splits.base_to_new_train, splits.base_to_new_validation, splits.base_to_new_test
    if parts is not None:
        train, validation = parts["train"], parts["validation"]
        if len(validation) == 0:
            train, validation = map(np.sort, hold_out(train, seed_hash(seed, "validation")))
        return train, validation, parts["test"]
    cuts = [
        three_way(rows_of(source, classes=[c]), seed_hash(seed, c, "base-to-new"))
        for c in range(len(source.class_names))
    ]
    train, validation, test = (concatenate(list(part)) for part in zip(*cuts, strict=True))
    return train, validation, test


def rule_of(source: Source, otherwise: str) -> str:
    """Where a split comes from, in words."""
    if source.splits is not None:
        return source.splits.rule
    return f"the data set's own split, or {otherwise}" if source.parts is not None else otherwise


def usable(source: Source, rows: np.ndarray) -> tuple[np.ndarray, dict[int, str]]:
    """Rows whose files decode, and the others with the reason.

    Raises:
        UserError: too many of the others; see `ImageTable`.
    """
    broken = source.broken(rows)
    return rows[~np.isin(rows, list(broken))], broken


def rows_of(
    source: Source, *, domains: Iterable[int] | None = None, classes: Iterable[int] | None = None
) -> np.ndarray:
    """Rows of the given domains and classes (None: of all), ascending."""
    wanted = np.ones(len(source.labels), dtype=bool)
    if domains is not None:
        wanted &= np.isin(source.domains, list(domains))
    if classes is not None:
        wanted &= np.isin(source.labels, list(classes))
    return np.flatnonzero(wanted)


def target_index(source: Source, target: str) -> int:
    """Position of a domain.

    Raises:
        UserError: the data set has no such domain.
    """
    if target not in source.domain_names:
        known = ", ".join(source.domain_names)
        raise UserError(f'--target: no domain "{target}" in {source.name}; choose one of: {known}')
    return source.domain_names.index(target)


def left_out(protocol: str, source: Source, target: str | None) -> tuple[int, tuple[int, ...]]:
    """The target domain and the source domains of a protocol that leaves one domain out.

    Raises:
        UserError: fewer than two domains, no target, or an unknown one.
    """
    if len(source.domain_names) < 2:
        raise UserError(
            f"--protocol {protocol} leaves one domain out, but {source.name} has only one; "
            "arrange --data as domain/class/image, or choose another protocol"
        )
    if target is None:
        known = ", ".join(source.domain_names)
        raise UserError(f"--protocol {protocol} needs --target, the domain to leave out; one of: {known}")
    index = target_index(source, target)
    return index, tuple(d for d in range(len(source.domain_names)) if d != index)


def halves(protocol: str, source: Source, base: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Base and new classes: the data set's own halves, or the first `base` classes and the rest.

    Raises:
        UserError: fewer than two classes.
    """
    count = len(source.class_names)
    if count < 2:
        raise UserError(
            f"--protocol {protocol} needs at least two classes, one to train on and one to hold back; "
            f"{source.name} has {count}"
        )
    if source.splits is not None:
        return tuple(sorted(source.splits.base)), tuple(sorted(source.splits.new))
    return tuple(range(base)), tuple(range(base, count))


def concatenate(parts: list[np.ndarray]) -> np.ndarray:
    """Row numbers of all parts, ascending, int64."""
    return np.sort(np.concatenate([np.empty(0, np.int64), *parts]).astype(np.int64))
