"""Holdout: train on all classes and domains, and test on rows that are held out.

The split is the one that the data ship; otherwise rows are drawn by ratio within each class. Rows of one group (a
patient, a camera, a product; see `Source.groups`) are never in two parts. Class shares are then as close to the ratios
as whole groups allow.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..core.errors import UserError
from ..core.types import Episode, Source, TestSet
from ..data.splits import seed_hash
from .base import make_episode
from .rows import in_target, merge_rows

RATIOS = (0.7, 0.1, 0.2)  # training, validation, test
PARTS = ("training", "validation", "test")


def holdout(source: Source, target: str | None, seed: int, ratios: Sequence[float] | None = None) -> Episode:
    """Build the episode of all classes; `target` restricts the test to one domain. See `build_episode`.

    Args:
        source, target, seed: as in `build_episode`.
        ratios: shares of training, validation and test; only their proportions count. None: `RATIOS`.
    """
    shares = check_ratios(RATIOS if ratios is None else ratios)
    own = own_parts(source)
    if own is None:
        parts = tuple(split_rows(source, np.arange(len(source)), shares, seed))
        rule = "/".join(f"{100 * share:g}" for share in shares) + f" per class, split seed {seed}"
    else:
        if ratios is not None:
            raise UserError(
                f"--ratios: --data {source.name} has its own split into training, validation and test; "
                "drop the option"
            )
        parts = complete(source, own, shares, seed)
        rule = "the data set's own split" if source.splits is None else source.splits.rule
        if not all(map(len, own)):
            rule += f", validation held out of training, split seed {seed}"
    if source.groups is not None:
        check_groups(source, parts)
        rule += "; no group in two parts"
    train, validation, test = parts
    classes = tuple(range(len(source.class_names)))
    return make_episode(
        "holdout",
        source,
        target,
        train_classes=classes,
        train_rows=np.sort(train),
        validation_rows=np.sort(validation),
        tests=[TestSet("all", np.sort(in_target(source, test, target)), classes)],
        rule=rule,
    )


def check_ratios(ratios: Sequence[float]) -> np.ndarray:
    """Return ratios as shares that sum to 1, [3].

    Raises:
        UserError: they are not three positive numbers.
    """
    if len(ratios) != len(PARTS) or not all(0 < ratio < np.inf for ratio in ratios):
        raise UserError(
            "--ratios takes three positive numbers, the shares of training, validation and test, such as 0.7 0.1 0.2; "
            f"not {' '.join(f'{ratio:g}' for ratio in ratios)}"
        )
    return np.array(ratios) / sum(ratios)


def own_parts(source: Source) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Return the training, validation and test rows that the data define, or None."""
    if source.splits is not None:
        splits = source.splits
        return splits.base_to_new_train, splits.base_to_new_validation, splits.base_to_new_test
    if source.parts is not None and (len(source.parts["validation"]) or len(source.parts["test"])):
        return source.parts["train"], source.parts["validation"], source.parts["test"]
    return None


def complete(
    source: Source, own: tuple[np.ndarray, np.ndarray, np.ndarray], shares: np.ndarray, seed: int
) -> tuple[np.ndarray, ...]:
    """Return the parts of a data set without empty ones.

    Data with training and validation only, such as many folders of `train/` and `val/`, are tested on their validation
    rows. A missing validation part, or one used as the test, is held out of the training rows.
    """
    train, validation, test = own
    if len(test) == 0:
        validation, test = test, validation
    if len(validation) == 0:
        train, validation = split_rows(source, train, shares[:2] / shares[:2].sum(), seed)
    return train, validation, test


def split_rows(source: Source, rows: np.ndarray, shares: np.ndarray, seed: int) -> list[np.ndarray]:
    """Split rows at random, with about the same shares of every class, and whole groups.

    Args:
        source: gives labels and groups.
        rows: [n] int64.
        shares: [P], of each part; they sum to 1.
        seed: of the shuffles.

    Returns:
        Rows of each part, ascending.
    """
    if source.groups is not None:
        return split_groups(source.labels[rows], np.array(source.groups)[rows], rows, shares, seed)
    parts: list[list[np.ndarray]] = [[] for _ in shares]
    for c in np.unique(source.labels[rows]).tolist():
        members = rows[source.labels[rows] == c]
        shuffled = members[np.random.RandomState(seed_hash(seed, c, "holdout")).permutation(len(members))]
        ends = np.cumsum(divide(len(members), shares))
        for part, chosen in zip(parts, np.split(shuffled, ends[:-1]), strict=True):
            part.append(chosen)
    return [merge_rows(part) for part in parts]


def divide(count: int, shares: np.ndarray) -> np.ndarray:
    """Return the size of each part of `count` rows of a class: [P] int64, with sum `count`.

    Sizes are rounded by largest remainder. No part is empty if there are enough rows; training never is.

    >>> divide(10, np.array([0.7, 0.1, 0.2])).tolist()
    [7, 1, 2]
    >>> [divide(n, np.array([0.7, 0.1, 0.2])).tolist() for n in (1, 2, 3)]
    [[1, 0, 0], [1, 0, 1], [1, 1, 1]]
    """
    exact = count * shares
    sizes = np.floor(exact).astype(np.int64)
    largest = np.argsort(sizes - exact, kind="stable")  # by remainder, descending
    sizes[largest[: count - sizes.sum()]] += 1
    for part in (0, *range(len(shares) - 1, 0, -1)):
        if sizes[part] == 0 and (sizes.max() > 1 or part == 0):
            sizes[sizes.argmax()] -= 1
            sizes[part] += 1
    return sizes


def split_groups(
    labels: np.ndarray, groups: np.ndarray, rows: np.ndarray, shares: np.ndarray, seed: int
) -> list[np.ndarray]:
    """Assign whole groups to parts, largest first, each to the part that lacks most of its classes.

    This minimises greedily the squared differences between the class shares of the parts and `shares`. The last groups
    go to parts that are still empty.

    Args:
        labels, groups, rows: [n], of the same rows.
        shares: [P].
        seed: order of groups of equal size.
    """
    _, group_of = np.unique(groups, return_inverse=True)  # [n]
    members = np.split(np.argsort(group_of, kind="stable"), np.cumsum(np.bincount(group_of))[:-1])
    shuffled = np.random.RandomState(seed_hash(seed, "holdout")).permutation(len(members))
    order = sorted(shuffled.tolist(), key=lambda g: -len(members[g]))  # stable
    totals = np.bincount(labels)
    missing = np.repeat(shares[:, None], len(totals), axis=1)  # [P, C], share of each class that a part lacks
    parts: list[list[np.ndarray]] = [[] for _ in shares]
    for position, g in enumerate(order):
        classes, counts = np.unique(labels[members[g]], return_counts=True)
        weights = counts / totals[classes]  # [c]
        gains = missing[:, classes] @ weights  # [P]
        empty = [part for part, chosen in enumerate(parts) if not chosen]
        if len(order) - position <= len(empty):
            gains[[part for part in range(len(parts)) if part not in empty]] = -np.inf
        best = int(gains.argmax())
        missing[best, classes] -= weights
        parts[best].append(rows[members[g]])
    return [merge_rows(part) for part in parts]


def check_groups(source: Source, parts: Sequence[np.ndarray]) -> None:
    """Raise UserError if rows of one group are in two parts, as in a split that the data ship."""
    assert source.groups is not None
    part_of: dict[str, int] = {}
    for part, rows in enumerate(parts):
        for group in {source.groups[row] for row in rows.tolist()}:
            if part_of.setdefault(group, part) != part:
                raise UserError(
                    f'--group-column: the split of --data {source.name} has group "{group}" in both '
                    f"{PARTS[part_of[group]]} and {PARTS[part]}; drop the option, or remove the split from the data"
                )
