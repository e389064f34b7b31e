"""Splits as files: what a run was trained and tested on, row by row, to be read and used again."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..core.checkpoint import write_text
from ..core.errors import UserError
from ..core.types import CaptionSource, CaptionTest, Episode, Source, TestSet
from ..data.captions.sentences import drop_rows
from ..data.decode import printable
from .base import make_episode

FORMAT = 1


def write_split(path: Path, episode: Episode, seed: int) -> None:
    """Write an episode as JSON: names of classes, and of rows where the data have them, else their numbers.

    Args:
        path: file to write.
        episode: the split.
        seed: that it was cut with.
    """
    source = episode.source
    keys = source.keys

    def named(rows: np.ndarray) -> list[Any]:
        return [keys[row] for row in rows] if keys is not None else rows.tolist()

    def classes(positions: Sequence[int]) -> list[str]:
        return [source.class_names[c] for c in positions]

    content = {
        "format": FORMAT,
        "protocol": episode.protocol,
        "target": episode.target,
        "rule": episode.rule,
        "seed": seed,
        "hash": episode.split_hash,
        "data": source.name,
        "fingerprint": source.fingerprint(),
        "train_classes": classes(episode.train_classes),
        "train": named(episode.train_rows),
        "validation": named(episode.validation_rows),
        "tests": [
            {"name": test.name, "classes": classes(test.classes), "rows": named(test.rows)}
            for test in episode.tests
        ],
    }
    for part, tests in (
        ("caption_tests", episode.caption_tests),
        ("caption_validation", episode.caption_validation),
    ):
        content[part] = [{"name": test.name, "rows": named(test.rows)} for test in tests]
    write_text(path, json.dumps(content, indent=0))


def write_skipped(path: Path, episode: Episode) -> None:
    """List files that were left out, with the reason; no file where there are none."""
    if not episode.skipped:
        return
    keys = episode.source.keys or ()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("path", "reason"))
    writer.writerows((printable(keys[row]), reason) for row, reason in sorted(episode.skipped.items()))
    write_text(path, text.getvalue())


def read_split(path: Path, source: Source) -> Episode:
    """An episode on the same data, or on data that have at least these rows.

    Its hash is made anew from rows, label spaces and data: it is that of the file where nothing has changed.

    Raises:
        UserError: unreadable, or rows or classes that the data do not have.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}")
        class_of = {name: i for i, name in enumerate(source.class_names)}
        row_of = finder(source)
        return make_episode(
            content["protocol"],
            source,
            content["target"],
            train_classes=tuple(class_of[name] for name in content["train_classes"]),
            train_rows=row_of(content["train"]),
            validation_rows=row_of(content["validation"]),
            tests=[
                TestSet(test["name"], row_of(test["rows"]), tuple(class_of[name] for name in test["classes"]))
                for test in content["tests"]
            ],
            caption_tests=caption_tests(source, "test", content.get("caption_tests", ()), row_of),
            caption_validation=caption_tests(
                source, "validation", content.get("caption_validation", ()), row_of
            ),
            rule=content["rule"],
        )
    except KeyError as error:
        raise UserError(
            f"--split-file: {path} names {error}, which --data {source.name} does not have"
        ) from None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"--split-file: {path} is not a readable split file ({error})") from None


def caption_tests(
    source: Source,
    part: Literal["validation", "test"],
    stored: Sequence[Mapping[str, Any]],
    row_of: Callable[[list[Any]], np.ndarray],
) -> list[CaptionTest]:
    """The caption tests of a file: the source's own, cut to the rows that the file names."""
    if not stored:
        return []
    if not isinstance(source, CaptionSource):
        raise ValueError(f"a split of captions, which --data {source.name} does not have")
    known = {test.name: test for test in source.caption_tests(part)}
    rows = {test["name"]: row_of(test["rows"]) for test in stored}
    return [drop_rows(known[name], np.setdiff1d(known[name].rows, kept)) for name, kept in rows.items()]


def finder(source: Source) -> Callable[[list[Any]], np.ndarray]:
    """A function from names or numbers of rows to their numbers, ascending."""
    keys: Sequence[Any] = range(len(source)) if source.keys is None else source.keys
    known = {key: row for row, key in enumerate(keys)}
    return lambda rows: np.sort(np.array([known[row] for row in rows], dtype=np.int64))
