"""What a protocol makes of a data set: which rows train, which test, and under which class names."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..data.base import Source
from ..data.splits import FixedSplits, hold_out, seed_hash, three_way
from ..errors import UserError


@dataclass(frozen=True)
class TestSet:
    """Rows to be scored, and the class names among which the model has to choose.

    Attributes:
        name: "all", "base", "new", or a domain; the `test` of a result row.
        rows: [n] int64, ascending.
        classes: the label space: positions in the source's `class_names`, in the order of the logits.
        stage: which fixed views are shown.
    """

    __test__ = False  # not a test case, though its name begins like one

    name: str
    rows: np.ndarray
    classes: tuple[int, ...]
    stage: Literal["test"] = "test"


@dataclass(frozen=True)
class Episode:
    """One training problem with its tests.

    Attributes:
        protocol: name of the rule that made it.
        target: domain that is tested and, but for base-to-new, not trained on; None for every domain.
        source: the data set; all rows below are its rows.
        train_classes: the label space of training, as positions in the source's `class_names`.
        train_rows, validation_rows: [n] int64, ascending. Validation holds source domains and training
            classes only, so that nothing of the tests can steer a choice.
        tests: what is scored at the end.
        split_hash: SHA-256 of the rows, the label spaces and the rule. Numbers with different hashes are not
            comparable.
        rule: where the split came from, in words.
        skipped: rows that the rule would have used, had their files been images -> why they are not.
    """

    protocol: str
    target: str | None
    source: Source
    train_classes: tuple[int, ...]
    train_rows: np.ndarray
    validation_rows: np.ndarray
    tests: tuple[TestSet, ...]
    split_hash: str
    rule: str = ""
    skipped: Mapping[int, str] = field(default_factory=dict)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the training label space, in the order of its logits."""
        return tuple(self.source.class_names[c] for c in self.train_classes)

    @property
    def train_domains(self) -> tuple[int, ...]:
        """Domains that have training rows, ascending."""
        return tuple(int(d) for d in np.unique(self.source.domains[self.train_rows]))


def fixed_splits(source: Source) -> FixedSplits | None:
    """The splits a data set ships, or None where the published rules are to be used."""
    splits = getattr(source, "splits", None)
    return splits if isinstance(splits, FixedSplits) else None


def given_parts(source: Source) -> dict[str, np.ndarray] | None:
    """Rows of the training, validation and test parts that come with the data, or None."""
    return getattr(source, "parts", None)


def cut_domain(
    source: Source, domain: int, classes: Iterable[int] | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a domain (of some classes) to train on and to hold out.

    They are those of the data set's own split; without one, DomainBed's 80/20 with this seed.
    """
    rows = rows_of(source, domains=[domain], classes=classes)
    splits, parts = fixed_splits(source), given_parts(source)
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
    splits, parts = fixed_splits(source), given_parts(source)
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
    splits = fixed_splits(source)
    if splits is not None:
        return splits.rule
    return f"the data set's own split, or {otherwise}" if given_parts(source) is not None else otherwise


def usable(source: Source, rows: np.ndarray) -> tuple[np.ndarray, dict[int, str]]:
    """Rows whose files decode, and the others with the reason.

    Raises:
        UserError: too many of the others; see `data.table.Table`.
    """
    check = getattr(source, "broken", None)
    broken: dict[int, str] = check(rows) if check is not None else {}
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
    splits = fixed_splits(source)
    if splits is not None:
        return tuple(sorted(splits.base)), tuple(sorted(splits.new))
    return tuple(range(base)), tuple(range(base, count))


def concatenate(parts: list[np.ndarray]) -> np.ndarray:
    """Row numbers of all parts, ascending, int64."""
    return np.sort(np.concatenate([np.empty(0, np.int64), *parts]).astype(np.int64))


def make_episode(
    protocol: str,
    source: Source,
    target: str | None,
    *,
    train_classes: tuple[int, ...],
    train_rows: np.ndarray,
    validation_rows: np.ndarray,
    tests: list[TestSet],
    rule: str,
) -> Episode:
    """Leave out files that are no images, check an episode and give it its hash.

    Rows go after the cut, so that a broken file does not move any other row to another part.

    Raises:
        UserError: a part without rows: the data set is too small for the protocol; too many broken files.
    """
    used = np.unique(np.concatenate([train_rows, validation_rows, *(test.rows for test in tests)]))
    _, skipped = usable(source, used)
    if skipped:
        gone = list(skipped)
        train_rows = train_rows[~np.isin(train_rows, gone)]
        validation_rows = validation_rows[~np.isin(validation_rows, gone)]
        tests = [replace(test, rows=test.rows[~np.isin(test.rows, gone)]) for test in tests]
    parts = {"training": train_rows, "validation": validation_rows}
    parts |= {f'the test set "{test.name}"': test.rows for test in tests}
    for part, rows in parts.items():
        if len(rows) == 0:
            where = f" with --target {target}" if target else ""
            raise UserError(
                f"--data {source.name}: --protocol {protocol}{where} leaves no images for {part}; "
                "it needs more images per class and domain"
            )
    tested = np.unique(np.concatenate([test.rows for test in tests]))
    assert not np.isin(train_rows, validation_rows).any() and not np.isin(train_rows, tested).any()
    assert not np.isin(validation_rows, tested).any()
    facts = {
        "protocol": protocol,
        "target": target,
        "rule": rule,
        "data": source.fingerprint(),
        "train_classes": train_classes,
        "train": train_rows.tolist(),
        "validation": validation_rows.tolist(),
        "tests": [[test.name, test.classes, test.rows.tolist()] for test in tests],
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode("utf-8")).hexdigest()
    return Episode(
        protocol,
        target,
        source,
        train_classes,
        train_rows,
        validation_rows,
        tuple(tests),
        digest,
        rule,
        skipped,
    )


Protocol = Callable[..., Episode]


def _protocols() -> dict[str, Protocol]:
    # Imported here, since each protocol's file builds on this one.
    from . import base_to_new, domain_shift, few_shot, imagenet_shift, in_the_wild

    return {
        "domain-shift": domain_shift.episode,
        "base-to-new": base_to_new.episode,
        "in-the-wild": in_the_wild.episode,
        "few-shot": few_shot.episode,
        "imagenet-shift": imagenet_shift.episode,
    }


def list_protocols() -> list[str]:
    """Names for `--protocol`."""
    return list(_protocols())


def build_episode(
    protocol: str, source: Source, target: str | None, seed: int = 0, **options: Any
) -> Episode:
    """Decide which rows train and which test.

    Args:
        protocol: one of `list_protocols()`.
        source: the data set.
        target: domain to leave out (domain-shift, in-the-wild) or to test alone (base-to-new).
        seed: of the split (DomainBed's trial seed), not of the training. Data sets with splits of their own
            ignore it.
        options: `target_split` ("all", "in", "out") and `shots`, for the protocols that take them; None for
            their default.

    Raises:
        UserError: unknown protocol or target, an option of another protocol, or a data set that the protocol
            cannot cut.
    """
    known = _protocols()
    if protocol not in known:
        raise UserError(f'--protocol: unknown "{protocol}"; choose one of: {", ".join(known)}')
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        owners = [p for p, function in known.items() if name in inspect.signature(function).parameters]
        if protocol not in owners:
            flag = "--" + name.replace("_", "-")
            raise UserError(f"{flag} is for --protocol {' or '.join(owners)}, not {protocol}")
    return known[protocol](source, target, seed, **given)


def episode_from(options: Mapping[str, Any], source: Source) -> Episode:
    """The episode that a command's options, or those of a run, describe; see `config.DataConfig`."""
    if options.get("split_file"):
        from .split_file import read_split

        return read_split(Path(options["split_file"]), source)
    return build_episode(
        str(options["protocol"]),
        source,
        options.get("target"),
        int(options.get("split_seed") or 0),
        target_split=options.get("target_split"),
        shots=options.get("shots"),
    )
