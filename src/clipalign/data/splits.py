"""Published rules for splitting rows, and split files that ship with a data set."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import UserError
from ..core.reading import read_json
from ..core.types import FixedSplits


def seed_hash(*parts: int | str) -> int:
    """Return DomainBed's seed for some values: MD5 of the text of their tuple, modulo 2^31.

    `seed_hash(0, 1)` seeds the split of domain 1 in trial 0, and `seed_hash(0, 1, "base")` that of its base classes in
    the wild (CLIPood).

    >>> seed_hash(0, 1)
    1514274641
    """
    return int(hashlib.md5(str(tuple(parts)).encode("utf-8")).hexdigest(), 16) % 2**31


def hold_out(rows: np.ndarray, seed: int, fraction: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """Split rows in two exactly as DomainBed does.

    Args:
        rows: [n] in the order of the source, which affects the split as much as the seed.
        seed: of the shuffle; `seed_hash(...)` in the published protocols.
        fraction: share to hold out, rounded down to whole rows.

    Returns:
        The rows kept (DomainBed's "in" split) and the rows held out ("out"), both shuffled.
    """
    order = np.arange(len(rows))
    # The legacy generator made the published splits; newer ones shuffle differently.
    np.random.RandomState(seed).shuffle(order)
    held_out = int(len(rows) * fraction)
    return rows[order[held_out:]], rows[order[:held_out]]


def three_way(rows: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split the rows of one class into about 50 % train, 20 % validation and 30 % test.

    The shares are those of CoOp's loaders for data sets without a published split. With three rows or more, no part is
    empty; of two rows one trains and one tests; a single row tests.
    """
    n = len(rows)
    shuffled = rows[np.random.RandomState(seed).permutation(n)]
    train = max(0 if n < 2 else 1, min(round(0.5 * n), n - 2))
    validation = 0 if n < 3 else max(1, min(round(0.2 * n), n - train - 1))
    return shuffled[:train], shuffled[train : train + validation], shuffled[train + validation :]


def draw_shots(
    train: np.ndarray, validation: np.ndarray, labels: np.ndarray, shots: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw `shots` training rows per class and up to 4 validation rows per class, exactly as CoOp does.

    Classes are drawn in the order of their first row with one generator, before any class is left out. A class with
    fewer rows gives all of them. Without validation rows, they are drawn from the remaining training rows.

    Args:
        train, validation: rows in the order of the published list.
        labels: [N], of all rows of the source.
        shots: K.
        seed: of Python's generator (1, 2 and 3 in CoOp).

    Returns:
        Rows to train on and to validate on.
    """
    generator = random.Random(seed)

    def draw(rows: np.ndarray, count: int) -> np.ndarray:
        by_class: dict[int, list[int]] = {}
        for row in rows.tolist():
            by_class.setdefault(int(labels[row]), []).append(row)
        drawn = [
            row
            for members in by_class.values()
            for row in (generator.sample(members, count) if len(members) >= count else members)
        ]
        return np.array(drawn, dtype=np.int64)

    drawn = draw(train, shots)
    if len(validation) == 0:
        validation = train[~np.isin(train, drawn)]
    return drawn, draw(validation, min(shots, 4))


class _RowFinder:
    """Finds the row of a (class, domain) pair by their ids; errors name the split file."""

    def __init__(
        self,
        path: Path,
        class_ids: Sequence[str],
        domain_ids: Sequence[str],
        labels: np.ndarray,
        domains: np.ndarray,
    ) -> None:
        self.path = path
        self.classes = {name: i for i, name in enumerate(class_ids)}
        self.domains = {name: i for i, name in enumerate(domain_ids)}
        self.row_of = {(int(c), int(d)): row for row, (c, d) in enumerate(zip(labels, domains, strict=True))}

    def error(self, problem: str) -> UserError:
        return UserError(f"{self.path}: {problem}; the split file does not belong to this data set")

    def class_index(self, name: str) -> int:
        if name not in self.classes:
            raise self.error(f'unknown class "{name}"')
        return self.classes[name]

    def domain_index(self, name: str) -> int:
        if name not in self.domains:
            raise self.error(f'unknown domain "{name}"')
        return self.domains[name]

    def row(self, class_id: str, domain: str) -> int:
        key = (self.class_index(class_id), self.domain_index(domain))
        if key not in self.row_of:
            raise self.error(f'no drawing of "{class_id}" in "{domain}"')
        return self.row_of[key]


def load_fixed_splits(
    path: Path | str,
    class_ids: Sequence[str],
    domain_ids: Sequence[str],
    labels: np.ndarray,
    domains: np.ndarray,
) -> FixedSplits:
    """Read a split file that names rows by class and domain (at most one row per pair).

    Args:
        path: JSON with `base`, `new` (class ids), `domain_split` (domain -> train/validation class ids),
            `base_to_new` (class id -> train: domain ids, validation: domain id, test: domain id), `rule` and `seed`.
        class_ids: id of each class, in the order of the source's labels.
        domain_ids: id of each domain, in the order of the source's domains.
        labels, domains: [N] of the source.

    Raises:
        UserError: unreadable file, unknown name, or a row that is missing or listed twice.
    """
    path = Path(path)
    finder = _RowFinder(path, class_ids, domain_ids, labels, domains)
    try:
        data: dict[str, Any] = read_json(path)
        base = frozenset(finder.class_index(name) for name in data["base"])
        new = frozenset(finder.class_index(name) for name in data["new"])
        domain_parts: dict[str, dict[int, np.ndarray]] = {"train": {}, "validation": {}}
        for domain, split in data["domain_split"].items():
            for part, by_domain in domain_parts.items():
                rows = [finder.row(class_id, domain) for class_id in split[part]]
                by_domain[finder.domain_index(domain)] = _sorted(rows)
        parts: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
        for class_id, split in data["base_to_new"].items():
            parts["train"] += [finder.row(class_id, domain) for domain in split["train"]]
            parts["validation"].append(finder.row(class_id, split["validation"]))
            parts["test"].append(finder.row(class_id, split["test"]))
        splits = FixedSplits(
            base=base,
            new=new,
            domain_train=domain_parts["train"],
            domain_validation=domain_parts["validation"],
            base_to_new_train=_sorted(parts["train"]),
            base_to_new_validation=_sorted(parts["validation"]),
            base_to_new_test=_sorted(parts["test"]),
            rule=str(data["rule"]),
            seed=int(data["seed"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a readable split file ({type(error).__name__}: {error})") from error
    _check_partitions(splits, finder, len(class_ids), domains)
    return splits


def _check_partitions(splits: FixedSplits, finder: _RowFinder, classes: int, domains: np.ndarray) -> None:
    """Check that the parts are disjoint and complete; a leak here would invalidate all results."""
    if splits.base & splits.new or len(splits.base) + len(splits.new) != classes:
        raise finder.error("base and new are not a partition of the classes")
    for name, domain in finder.domains.items():
        by_domain = (splits.domain_train, splits.domain_validation)
        rows = np.concatenate([part.get(domain, _sorted([])) for part in by_domain])
        if not np.array_equal(np.sort(rows), np.flatnonzero(domains == domain)):
            raise finder.error(f'train and validation of "{name}" are not a partition of its rows')
    parts = (splits.base_to_new_train, splits.base_to_new_validation, splits.base_to_new_test)
    if not np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(domains))):
        raise finder.error("train, validation and test of base_to_new are not a partition of the rows")


def _sorted(rows: list[int]) -> np.ndarray:
    return np.sort(np.asarray(rows, dtype=np.int64))
