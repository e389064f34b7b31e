"""Split files: write the rows that a run was trained and tested on, and read them again."""

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
from ..core.reading import read_json
from ..core.types import CaptionSource, CaptionTest, Episode, Source, TestSet
from ..data.captions.sentences import drop_rows
from ..data.decode import printable
from .base import make_episode

FORMAT = 1


def write_split(path: Path, episode: Episode, seed: int) -> None:
    """Write an episode as JSON, with class names and the keys of rows (row numbers if the data have no keys).

    Args:
        path: file to write.
        episode: the split.
        seed: the seed it was made with.
    """
    source, keys = episode.source, episode.source.keys

    def identify(rows: np.ndarray) -> list[Any]:
        return rows.tolist() if keys is None else [keys[row] for row in rows]

    def class_names(positions: Sequence[int]) -> list[str]:
        return [source.class_names[c] for c in positions]

    def caption_rows(tests: Sequence[CaptionTest]) -> list[dict[str, Any]]:
        return [{"name": test.name, "rows": identify(test.rows)} for test in tests]

    content = {
        "format": FORMAT,
        "protocol": episode.protocol,
        "target": episode.target,
        "rule": episode.rule,
        "seed": seed,
        "hash": episode.split_hash,
        "data": source.name,
        "fingerprint": source.fingerprint(),
        "train_classes": class_names(episode.train_classes),
        "train": identify(episode.train_rows),
        "validation": identify(episode.validation_rows),
        "tests": [
            {"name": test.name, "classes": class_names(test.classes), "rows": identify(test.rows)}
            for test in episode.tests
        ],
        "caption_tests": caption_rows(episode.caption_tests),
        "caption_validation": caption_rows(episode.caption_validation),
    }
    write_text(path, json.dumps(content, indent=0))


def write_skipped(path: Path, episode: Episode) -> None:
    """Write the broken files of an episode with the reasons as CSV; nothing if there are none."""
    if not episode.skipped:
        return
    keys: Sequence[Any] = episode.source.keys or range(len(episode.source))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("path", "reason"))
    writer.writerows((printable(keys[row]), reason) for row, reason in sorted(episode.skipped.items()))
    write_text(path, text.getvalue())


def read_split(path: Path, source: Source) -> Episode:
    """Read an episode for the same data, or for data that contain the same rows and classes.

    The hash is computed again; it equals the file's if nothing has changed.

    Raises:
        UserError: the file is unreadable, or names rows or classes that the data do not have.
    """
    try:
        content = read_json(path, "--split-file: ")
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}")
        class_of = {name: i for i, name in enumerate(source.class_names)}
        find_rows = row_finder(source)
        return make_episode(
            content["protocol"],
            source,
            content["target"],
            train_classes=tuple(class_of[name] for name in content["train_classes"]),
            train_rows=find_rows(content["train"]),
            validation_rows=find_rows(content["validation"]),
            tests=[
                TestSet(
                    test["name"], find_rows(test["rows"]), tuple(class_of[name] for name in test["classes"])
                )
                for test in content["tests"]
            ],
            caption_tests=read_caption_tests(source, "test", content.get("caption_tests", ()), find_rows),
            caption_validation=read_caption_tests(
                source, "validation", content.get("caption_validation", ()), find_rows
            ),
            rule=content["rule"],
        )
    except KeyError as error:
        raise UserError(
            f"--split-file: {path} names {error}, which --data {source.name} does not have"
        ) from None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"--split-file: {path} is not a readable split file ({error})") from None


def read_caption_tests(
    source: Source,
    part: Literal["validation", "test"],
    stored: Sequence[Mapping[str, Any]],
    find_rows: Callable[[list[Any]], np.ndarray],
) -> list[CaptionTest]:
    """Return the caption tests of a source, restricted to the rows of a split file."""
    if not stored:
        return []
    if not isinstance(source, CaptionSource):
        raise ValueError(f"it has captions, which --data {source.name} does not have")
    known = {test.name: test for test in source.caption_tests(part)}
    kept = {test["name"]: find_rows(test["rows"]) for test in stored}
    return [drop_rows(known[name], np.setdiff1d(known[name].rows, rows)) for name, rows in kept.items()]


def row_finder(source: Source) -> Callable[[list[Any]], np.ndarray]:
    """Return a function from keys (or numbers) of rows to rows, [n] int64, ascending."""
    keys: Sequence[Any] = range(len(source)) if source.keys is None else source.keys
    row_of = {key: row for row, key in enumerate(keys)}
    return lambda keys: np.sort(np.array([row_of[key] for key in keys], dtype=np.int64))
