"""Nested validation: inner episodes from the training and validation rows of an episode, to choose options on.

Options chosen on source domains and training classes cannot show what a new domain or a new class costs. Each inner
episode therefore holds out a source domain, as DomainBed's leave-one-domain-out cross-validation (Gulrajani and
Lopez-Paz, "In search of lost domain generalization", 2021), and, if the outer protocol tests new classes, half of the
training classes as well. The target domain, the new classes and all test rows of the outer episode stay unseen.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..core.config import SplitOptions
from ..core.errors import UserError
from ..core.types import Episode, Source, TestSet
from ..data.splits import seed_hash
from .base import make_episode
from .registry import episode_from
from .rows import merge_rows


def nested_episodes(episode: Episode, folds: int | None = None, seed: int = 0) -> list[Episode]:
    """Return inner episodes whose rows are training and validation rows of an episode.

    With several source domains, fold k trains and validates on all of them but one, and tests all rows of that one.
    With a single source domain, it trains on the training rows, and divides the validation rows of each class between
    validation and test. Folds 2 i and 2 i + 1 swap the halves of the classes (or of the validation rows).

    Args:
        episode: the outer episode, of a protocol with class names.
        folds: number of inner episodes; None: one per source domain, or 2 if there is only one.
        seed: of the order of domains and of the halves.

    Returns:
        Episodes of the same protocol, with tests of the same names and the held-out domain as `target`.

    Raises:
        UserError: the protocol has no classes; there are too few classes or images.

    >>> [inner.target for inner in nested_episodes(episode)]  # doctest: +SKIP
    ['noto', 'openmoji', 'twemoji']
    """
    if not episode.tests:
        raise UserError(f"nested validation needs a protocol with classes, not --protocol {episode.protocol}")
    domains = episode.train_domains
    if folds is None:
        folds = len(domains) if len(domains) > 1 else 2
    order = np.random.default_rng(seed_hash(seed, "nested")).permutation(domains)
    held_out = [int(order[k % len(order)]) if len(order) > 1 else None for k in range(folds)]
    return [_fold(episode, k, held_out[k], seed) for k in range(folds)]


def unread_episode(options: SplitOptions, source: Source) -> Episode:
    """Build the episode that options describe without decoding images to look for broken files.

    Broken files are dropped after a split, so the rows of `episode_from` are those of this episode without the broken
    ones. Inner episodes drop the broken files among their own rows.
    """
    unread = copy.copy(source)
    unread.broken = lambda rows: {}  # type: ignore[method-assign]
    return replace(episode_from(options, unread), source=source)


def _fold(outer: Episode, number: int, domain: int | None, seed: int) -> Episode:
    """Return inner episode `number`, which holds out a domain (None: there is only one)."""
    source = outer.source
    base, new = _halves(outer, number, seed)
    train, validation = _of_classes(source, outer.train_rows, base), outer.validation_rows
    if domain is None:
        validation, tested = _divide(source, validation, number, seed)
        tested = merge_rows([tested, _of_classes(source, outer.train_rows, new)])
    else:
        tested = merge_rows([outer.train_rows, validation])
        tested = tested[source.domains[tested] == domain]
        train = train[source.domains[train] != domain]
        validation = validation[source.domains[validation] != domain]
    held_out = None if domain is None else source.domain_names[domain]
    where = "" if held_out is None else f" without {held_out}"
    return make_episode(
        outer.protocol,
        source,
        held_out,
        train_classes=base,
        train_rows=np.sort(train),
        validation_rows=np.sort(_of_classes(source, validation, base)),
        tests=_mirror(outer, tested, base, new),
        rule=f"{outer.rule}; nested fold {number + 1}{where}, seed {seed}",
    )


def _halves(outer: Episode, number: int, seed: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the base and new classes of a fold: halves of the training classes, if the outer tests have new classes.

    Raises:
        UserError: one class cannot be halved.
    """
    classes = outer.train_classes
    if all(set(test.classes) <= set(classes) for test in outer.tests):
        return classes, ()
    if len(classes) < 2:
        raise UserError(
            f"--data {outer.source.name}: nested validation holds out half of the training classes, and "
            f"--protocol {outer.protocol} has only {len(classes)}"
        )
    shuffled = np.random.default_rng(seed_hash(seed, number // 2, "classes")).permutation(classes)
    halves = [tuple(sorted(half.tolist())) for half in np.array_split(shuffled, 2)]
    return (halves[0], halves[1]) if number % 2 == 0 else (halves[1], halves[0])


def _divide(source: Source, rows: np.ndarray, number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Divide rows into validation and test, alternately within each class, so that both have about half of each."""
    shuffled = np.random.default_rng(seed_hash(seed, number // 2, "validation")).permutation(rows)
    by_class = shuffled[np.argsort(source.labels[shuffled], kind="stable")]
    halves = (by_class[::2], by_class[1::2])
    return halves if number % 2 == 0 else halves[::-1]


def _of_classes(source: Source, rows: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    return rows[np.isin(source.labels[rows], classes)]


def _mirror(outer: Episode, rows: np.ndarray, base: tuple[int, ...], new: tuple[int, ...]) -> list[TestSet]:
    """Return the outer tests with inner rows and classes; outer training classes become base, others new.

    A test of base rows among the names of all classes, for example, stays one. Tests that do not differ from an earlier
    one are left out, such as those of several target domains.
    """
    known, labels = set(outer.train_classes), outer.source.labels
    tests: list[TestSet] = []
    seen: set[tuple[bool, bool, bool, bool]] = set()
    for test in outer.tests:
        shown, named = set(np.unique(labels[test.rows]).tolist()), set(test.classes)
        # A class is "new" if the outer training does not have it.
        facts = (bool(shown & known), bool(shown - known), bool(named & known), bool(named - known))
        if facts in seen:
            continue
        seen.add(facts)
        wanted = base * facts[0] + new * facts[1]
        classes = tuple(sorted(base * facts[2] + new * facts[3]))
        tests.append(TestSet(test.name, np.sort(_of_classes(outer.source, rows, wanted)), classes))
    return tests
