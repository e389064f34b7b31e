"""The schema of a result row, and the one place that defines its field names.

`results.jsonl` holds one row per test set and line. Accuracies are shares in [0, 1].
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..core.checkpoint import write_text
from ..core.errors import UserError

FILE = "results.jsonl"
# Fields of retrieval, in `extra`: directions, and how many best items count.
DIRECTIONS = ("text_to_image", "image_to_text")
RECALL_AT = (1, 5, 10)


def recall_field(direction: str, k: int) -> str:
    """Field name of a recall, such as "text_to_image_recall@1"; "relevant_" or "masked_" may stand before it."""
    return f"{direction}_recall@{k}"


RECALLS = tuple(recall_field(direction, k) for direction in DIRECTIONS for k in RECALL_AT)


@dataclass(frozen=True)
class ResultRow:
    """One model on one test set.

    Attributes:
        method, backbone, data, protocol, target, test, seed: what was scored on what; protocol and target are
            None where none was asked for, `test` is the test set's name ("all", "base", "new", a domain).
        steps: optimiser steps of the weights scored; 0 where nothing was trained.
        n: number of images scored (rows times fixed views).
        accuracy: share whose highest logit is right; None where the model cannot score the label space.
        h: harmonic mean of base and new accuracy where the protocol has both, on each of its rows.
        top5: share whose label is among the five highest logits (of fewer classes: all of them).
        class_accuracy: mean over classes of the accuracy within each.
        domain_accuracy: accuracy by domain.
        rows: number of drawings or photographs behind the n images.
        classes: number of classes in the label space.
        label_space: their names' digest; rows with different ones are different tasks.
        split_hash: of the protocol's split.
        zeroshot: accuracy of the same backbone before training, on test sets of classes not trained.
        validation: accuracy on the source validation rows in the training label space.
        template: the prompt templates.
        lr, lr_from: peak learning rate, and who chose it.
        average: kind of weight averaging.
        command: what to type to get the row again.
        version: of this package.
        seconds: wall time of training.
        reason: why there is no accuracy.
        extra: anything else; written at the same level.
    """

    method: str
    backbone: str
    data: str
    protocol: str | None
    target: str | None
    test: str
    seed: int
    steps: int
    n: int
    accuracy: float | None
    h: float | None = None
    top5: float | None = None
    class_accuracy: float | None = None
    domain_accuracy: Mapping[str, float] = field(default_factory=dict)
    rows: int | None = None
    classes: int | None = None
    label_space: str | None = None
    split_hash: str | None = None
    zeroshot: float | None = None
    validation: float | None = None
    template: str | None = None
    lr: float | None = None
    lr_from: str | None = None
    average: str | None = None
    command: str | None = None
    version: str | None = None
    seconds: float | None = None
    reason: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Flat, as a line of the file."""
        values = asdict(self)
        return values | values.pop("extra")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ResultRow:
        """The inverse of `as_dict`; fields this version does not know go to `extra`."""
        known = {f.name for f in fields(cls)} - {"extra"}
        return cls(
            **{k: v for k, v in values.items() if k in known},
            extra={k: v for k, v in values.items() if k not in known},
        )


def make_row(facts: Mapping[str, Any], values: Mapping[str, Any]) -> ResultRow:
    """Return a row of facts and measured values; values that are not fields of `ResultRow` go to `extra`.

    Args:
        facts: fields of `ResultRow`, and further ones under "extra".
        values: fields of the test set and of metrics.
    """
    extra = facts.get("extra", {})
    return ResultRow.from_dict({**{k: v for k, v in facts.items() if k != "extra"}, **extra, **values})


def harmonic_mean(base: float, new: float) -> float:
    """H = 2 b n / (b + n); 0 where both are 0."""
    return 2 * base * new / (base + new) if base + new else 0.0


def write_results(folder: Path, rows: Iterable[ResultRow]) -> Path:
    """Write all rows of a folder at once."""
    path = folder / FILE
    write_text(path, "".join(json.dumps(row.as_dict()) + "\n" for row in rows))
    return path


def read_results(path: Path) -> list[ResultRow]:
    """Rows of a results.jsonl, or of the one in a folder.

    Raises:
        UserError: no such file, or a line that is no row.
    """
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"no {path}: the run is not finished, or the folder is not a run")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            rows.append(ResultRow.from_dict(json.loads(line)))
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{path}, line {number}: not a result row ({error})") from None
    return rows
