"""What a protocol makes of a data set: which rows train, which test, and under which class names."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..core.errors import UserError
from ..core.types import CaptionTest, Episode, Source, TestSet
from ..data.captions.sentences import drop_rows
from .rows import usable


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
        caption_tests = [drop_rows(test, np.array(gone)) for test in caption_tests]
        caption_validation = [drop_rows(test, np.array(gone)) for test in caption_validation]
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
