"""`make_episode`, which every protocol ends with: drop broken files, check the parts, and hash the split."""

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
    """Return an episode without broken files.

    Broken files are dropped after the split, so that they do not move other rows to another part.

    Args: as the attributes of `Episode`.

    Raises:
        UserError: a part is empty, since the data set is too small for the protocol; or too many files are broken.
    """
    used = np.unique(np.concatenate([train_rows, validation_rows, *_test_rows(tests, caption_tests)]))
    skipped = source.broken(used)
    if skipped:
        broken = np.array(list(skipped))
        train_rows = train_rows[~np.isin(train_rows, broken)]
        validation_rows = validation_rows[~np.isin(validation_rows, broken)]
        tests = [replace(test, rows=test.rows[~np.isin(test.rows, broken)]) for test in tests]
        caption_tests = [drop_rows(test, broken) for test in caption_tests]
        caption_validation = [drop_rows(test, broken) for test in caption_validation]
    episode = Episode(
        protocol,
        target,
        source,
        train_classes,
        train_rows,
        validation_rows,
        tuple(tests),
        split_hash="",
        rule=rule,
        caption_tests=tuple(caption_tests),
        caption_validation=tuple(caption_validation),
        skipped=skipped,
    )
    check_parts(episode)
    return replace(episode, split_hash=hash_split(episode))


def check_parts(episode: Episode) -> None:
    """Check that no part is empty and that training, validation and tests are disjoint.

    Raises:
        UserError: a part is empty. Published caption sets have test images only, so their other parts may be.
    """
    parts = {"training": episode.train_rows, "validation": episode.validation_rows}
    if episode.caption_tests and len(episode.train_rows) == 0:
        parts = {}
    parts |= {f'the test set "{test.name}"': test.rows for test in episode.tests}
    parts |= {f'the test set "{test.name}"': test.rows for test in episode.caption_tests}
    for part, rows in parts.items():
        if len(rows) == 0:
            where = f" with --target {episode.target}" if episode.target else ""
            raise UserError(
                f"--data {episode.source.name}: --protocol {episode.protocol}{where} leaves no images for {part}; "
                "it needs more images per class and domain"
            )
    tested = np.concatenate(_test_rows(episode.tests, episode.caption_tests))
    train, validation = episode.train_rows, episode.validation_rows
    assert not np.isin(train, validation).any() and not np.isin(train, tested).any()
    assert not np.isin(validation, tested).any()


def hash_split(episode: Episode) -> str:
    """Return the SHA-256 of everything that decides whether two results are comparable."""
    content: dict[str, Any] = {
        "protocol": episode.protocol,
        "target": episode.target,
        "rule": episode.rule,
        "data": episode.source.fingerprint(),
        "train_classes": episode.train_classes,
        "train": episode.train_rows.tolist(),
        "validation": episode.validation_rows.tolist(),
        "tests": [[test.name, test.classes, test.rows.tolist()] for test in episode.tests],
    }
    if episode.caption_tests:
        content["captions"] = [
            [t.name, t.rows.tolist(), t.owner.tolist(), t.texts]
            for t in (*episode.caption_tests, *episode.caption_validation)
        ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode("utf-8")).hexdigest()


def _test_rows(tests: Sequence[TestSet], caption_tests: Sequence[CaptionTest]) -> list[np.ndarray]:
    return [*(test.rows for test in tests), *(test.rows for test in caption_tests)]
