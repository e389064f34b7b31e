"""Which rows train and which are held out: published rules, and splits that a data set ships as a file."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import UserError
from ..core.types import FixedSplits


def seed_hash(*parts: int | str) -> int:
    """DomainBed's seed: MD5 of the text of the tuple `parts`, modulo 2^31.

    `seed_hash(0, 1)` seeds the split of domain 1 in trial 0; `seed_hash(0, 1, "base")` that of its base part
    in the wild (CLIPood).
    """
    return int(hashlib.md5(str(tuple(parts)).encode("utf-8")).hexdigest(), 16) % 2**31


def hold_out(rows: np.ndarray, seed: int, fraction: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """Cut rows in two as DomainBed does, to the row and in its order.

    Args:
        rows: [n] in the source's order, which decides the split as much as the seed does.
        seed: of the shuffle; `seed_hash(...)` in the published protocols.
        fraction: share held out, rounded down to whole rows.

    Returns:
        The rows kept (DomainBed's "in" split) and the rows held out ("out").
    """
    order = np.arange(len(rows))
    # The legacy generator: newer ones shuffle differently, and the published splits are its.
    np.random.RandomState(seed).shuffle(order)
    cut = int(len(rows) * fraction)
    return rows[order[cut:]], rows[order[:cut]]


def three_way(rows: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut the rows of one class into about 50 % train, 20 % validation and 30 % test.

    The shares are those of CoOp's loaders for data sets that come without a split. From three rows on, no
    part is empty; of two rows one trains and one tests; a single row tests.
    """
    n = len(rows)
    shuffled = rows[np.random.RandomState(seed).permutation(n)]
    train = max(0 if n < 2 else 1, min(round(0.5 * n), n - 2))
    validation = 0 if n < 3 else max(1, min(round(0.2 * n), n - train - 1))
    return shuffled[:train], shuffled[train : train + validation], shuffled[train + validation :]


def draw_shots(
    train: np.ndarray, validation: np.ndarray, labels: np.ndarray, shots: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """CoOp's few-shot draw, to the row: `shots` training rows per class, then up to 4 validation rows.

    Classes come in the order of their first row, one generator draws for all, and a class with fewer rows gives
    all of them. The draw is over all classes, before any of them is left out. Without validation rows, they
    are drawn from the training rows that are left over.

    Args:
        train, validation: rows in the order of the published list.
        labels: of all rows of the source.
        shots: K.
        seed: of Python's generator (CoOp: 1, 2 and 3).

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

    kept = draw(train, shots)
    if len(validation) == 0:
        validation = train[~np.isin(train, kept)]
    return kept, draw(validation, min(shots, 4))


class _Table:
    """Finds the row of (class, domain) by their ids, and names the file when there is none."""

    def __init__(
        self,
        path: Path,
        class_ids: Sequence[str],
        domain_ids: Sequence[str],
        labels: np.ndarray,
        domains: np.ndarray,
    ) -> None:
        self.path = path
        self.class_of = {name: i for i, name in enumerate(class_ids)}
        self.domain_of = {name: i for i, name in enumerate(domain_ids)}
        self.row_of = {(int(c), int(d)): row for row, (c, d) in enumerate(zip(labels, domains, strict=True))}

    def fail(self, what: str) -> UserError:
        return UserError(f"{self.path}: {what}; the split file does not belong to this data set")

    def class_index(self, name: str) -> int:
        if name not in self.class_of:
            raise self.fail(f'unknown class "{name}"')
        return self.class_of[name]

    def domain_index(self, name: str) -> int:
        if name not in self.domain_of:
            raise self.fail(f'unknown domain "{name}"')
        return self.domain_of[name]

    def row(self, concept: str, domain: str) -> int:
        key = (self.class_index(concept), self.domain_index(domain))
        if key not in self.row_of:
            raise self.fail(f'no drawing of "{concept}" in "{domain}"')
        return self.row_of[key]


def _rows(found: list[int]) -> np.ndarray:
    return np.sort(np.asarray(found, dtype=np.int64))


def load_fixed_splits(
    path: Path | str,
    class_ids: Sequence[str],
    domain_ids: Sequence[str],
    labels: np.ndarray,
    domains: np.ndarray,
) -> FixedSplits:
    """Read a split file that names rows by class and domain (one row for each pair at most).

    Args:
        path: JSON with `base`, `new` (class ids), `domain_split` (domain -> train/validation class ids),
            `base_to_new` (class id -> train: domain ids, validation: domain id, test: domain id).
        class_ids: id of each class, in the order of the source's labels.
        domain_ids: id of each domain, in the order of the source's domains.
        labels, domains: [n] of the source's rows.

    Raises:
        UserError: unreadable file, a name that the data set lacks, a row missing or listed twice.
    """
    path = Path(path)
    table = _Table(path, class_ids, domain_ids, labels, domains)
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        base = frozenset(table.class_index(name) for name in data["base"])
        new = frozenset(table.class_index(name) for name in data["new"])
        parts: dict[str, dict[int, np.ndarray]] = {"train": {}, "validation": {}}
        for domain, split in data["domain_split"].items():
            for part, found in parts.items():
                found[table.domain_index(domain)] = _rows([table.row(c, domain) for c in split[part]])
        crossed: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
        for concept, split in data["base_to_new"].items():
            crossed["train"] += [table.row(concept, domain) for domain in split["train"]]
            crossed["validation"].append(table.row(concept, split["validation"]))
            crossed["test"].append(table.row(concept, split["test"]))
        splits = FixedSplits(
            base=base,
            new=new,
            domain_train=parts["train"],
            domain_validation=parts["validation"],
            base_to_new_train=_rows(crossed["train"]),
            base_to_new_validation=_rows(crossed["validation"]),
            base_to_new_test=_rows(crossed["test"]),
            rule=str(data["rule"]),
            seed=int(data["seed"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a readable split file ({type(error).__name__}: {error})") from error
    _check_partitions(splits, table, len(class_ids), len(labels), domains)
    return splits


def _check_partitions(
    splits: FixedSplits, table: _Table, classes: int, rows: int, domains: np.ndarray
) -> None:
    """No class and no row in two parts, none forgotten: a leak here would spoil every table made from it."""
    if splits.base & splits.new or len(splits.base) + len(splits.new) != classes:
        raise table.fail("base and new must share the classes without overlap")
    for name, domain in table.domain_of.items():
        parts = [found.get(domain, _rows([])) for found in (splits.domain_train, splits.domain_validation)]
        if not np.array_equal(np.sort(np.concatenate(parts)), np.flatnonzero(domains == domain)):
            raise table.fail(f'train and validation of "{name}" must share its rows without overlap')
    crossed = (splits.base_to_new_train, splits.base_to_new_validation, splits.base_to_new_test)
    if not np.array_equal(np.sort(np.concatenate(crossed)), np.arange(rows)):
        raise table.fail("base_to_new must give each row to one of train, validation and test")
