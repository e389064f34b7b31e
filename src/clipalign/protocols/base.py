"""What a protocol makes of a data set: which rows train, which test, and under which class names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from ..data.base import Source
from ..data.captions import CaptionTest, without
from ..errors import UserError
from .rows import usable


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
        caption_tests, caption_validation: what retrieval is measured on, at the end and in between; none but in
            the protocol "retrieval", which has no `tests` and no `train_classes`.
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
    caption_tests: tuple[CaptionTest, ...] = ()
    caption_validation: tuple[CaptionTest, ...] = ()
    skipped: Mapping[int, str] = field(default_factory=dict)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the training label space, in the order of its logits."""
        return tuple(self.source.class_names[c] for c in self.train_classes)

    @property
    def train_domains(self) -> tuple[int, ...]:
        """Domains that have training rows, ascending."""
        return tuple(int(d) for d in np.unique(self.source.domains[self.train_rows]))


def make_episode(
    protocol: str,
    source: Source,
    target: str | None,
    *,
    train_classes: tuple[int, ...],
    train_rows: np.ndarray,
    validation_rows: np.ndarray,
    tests: Sequence[TestSet] = (),
    caption_tests: Sequence[CaptionTest] = (),
    caption_validation: Sequence[CaptionTest] = (),
    rule: str,
) -> Episode:
    """Leave out files that are no images, check an episode and give it its hash.

    Rows go after the cut, so that a broken file does not move any other row to another part.

    Raises:
        UserError: a part without rows: the data set is too small for the protocol; too many broken files.
    """
    tested_rows = [*(test.rows for test in tests), *(test.rows for test in caption_tests)]
    used = np.unique(np.concatenate([train_rows, validation_rows, *tested_rows]))
    _, skipped = usable(source, used)
    if skipped:
        gone = list(skipped)
        train_rows = train_rows[~np.isin(train_rows, gone)]
        validation_rows = validation_rows[~np.isin(validation_rows, gone)]
        tests = [replace(test, rows=test.rows[~np.isin(test.rows, gone)]) for test in tests]
        caption_tests = [without(test, np.array(gone)) for test in caption_tests]
        caption_validation = [without(test, np.array(gone)) for test in caption_validation]
    parts = {"training": train_rows, "validation": validation_rows}
    if caption_tests and len(train_rows) == 0:
        parts = {}  # published sets of captions are for tests alone
    parts |= {f'the test set "{test.name}"': test.rows for test in tests}
    parts |= {f'the test set "{test.name}"': test.rows for test in caption_tests}
    for part, rows in parts.items():
        if len(rows) == 0:
            where = f" with --target {target}" if target else ""
            raise UserError(
                f"--data {source.name}: --protocol {protocol}{where} leaves no images for {part}; "
                "it needs more images per class and domain"
            )
    tested = np.unique(np.concatenate([test.rows for test in tests] + [test.rows for test in caption_tests]))
    assert not np.isin(train_rows, validation_rows).any() and not np.isin(train_rows, tested).any()
    assert not np.isin(validation_rows, tested).any()
    facts: dict[str, Any] = {
        "protocol": protocol,
        "target": target,
        "rule": rule,
        "data": source.fingerprint(),
        "train_classes": train_classes,
        "train": train_rows.tolist(),
        "validation": validation_rows.tolist(),
        "tests": [[test.name, test.classes, test.rows.tolist()] for test in tests],
    }
    if caption_tests:
        facts["captions"] = [
            [t.name, t.rows.tolist(), t.owner.tolist(), t.texts]
            for t in (*caption_tests, *caption_validation)
        ]
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
        tuple(caption_tests),
        tuple(caption_validation),
        skipped,
    )
