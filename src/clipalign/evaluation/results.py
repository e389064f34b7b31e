"""Result rows: the schema of results.jsonl, which holds one row per model and test set.

Accuracies and recalls are shares in [0, 1].
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeAlias

from ..core.checkpoint import write_text
from ..core.errors import UserError
from ..core.reading import parse_json, read_text

FILE = "results.jsonl"
JsonValue: TypeAlias = bool | int | float | str | Sequence["JsonValue"] | Mapping[str, "JsonValue"] | None


@dataclass(frozen=True)
class ResultRow:
    """Result of one model on one test set.

    Attributes:
        method, backbone, data, seed: the model, and the data it was tested on.
        protocol, target: None without a protocol or target domain.
        test: name of the test set: "all", "base", "new", or a domain.
        steps: optimiser steps of the weights; 0 if nothing was trained.
        n: number of test images (rows times fixed views).
        accuracy: top-1 accuracy; None if the model cannot score the label space.
        h: harmonic mean of base and new accuracy, on each row of a protocol that has both.
        top5: top-5 accuracy (top-C if there are C < 5 classes).
        class_accuracy: accuracy within each class, averaged over classes.
        domain_accuracy: accuracy by domain.
        rows: number of drawings or photographs in the n images.
        classes: number of classes in the label space.
        label_space: digest of the class names; rows with different digests are different tasks.
        split_hash: hash of the protocol's split.
        zeroshot: accuracy of the same backbone before training, on test sets without trained classes.
        validation: accuracy on the source validation rows, in the training label space.
        template: prompt templates.
        lr, lr_from: peak learning rate, and the layer of options that set it.
        recipe: published or common.
        recipe_changes: options that do not follow the recipe, separated by commas.
        average: kind of weight averaging.
        options: every option of the model's run, or of the evaluation of a backbone, with its resolved value.
        command: command line that reproduces the row.
        version: version of this package.
        seconds: wall time of training.
        reason: why there is no accuracy.
        extra: further fields, such as recalls; stored at the top level of the file.
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
    recipe: str | None = None
    recipe_changes: str | None = None
    average: str | None = None
    options: Mapping[str, JsonValue] = field(default_factory=dict)
    command: str | None = None
    version: str | None = None
    seconds: float | None = None
    reason: str | None = None
    extra: Mapping[str, JsonValue] = field(default_factory=dict)

    def value(self, name: str) -> float | None:
        """Return a number by field name, from the fields above or from `extra`; None if it was not measured.

        Raises:
            TypeError: the field holds something else.
        """
        found = self.extra.get(name) if name in self.extra else getattr(self, name, None)
        if found is None:
            return None
        if isinstance(found, bool) or not isinstance(found, (int, float)):
            raise TypeError(f"result field {name} is not a number: {found!r}")
        return float(found)

    def as_dict(self) -> dict[str, JsonValue]:
        """Return the fields as one flat mapping, as they are stored."""
        values = asdict(self)
        return values | values.pop("extra")

    @classmethod
    def from_dict(cls, values: Mapping[str, JsonValue]) -> ResultRow:
        """Build a row from a stored line; unknown fields go to `extra`."""
        names = {f.name for f in fields(cls)} - {"extra"}
        known: dict[str, Any] = {name: value for name, value in values.items() if name in names}
        return cls(**known, extra={name: value for name, value in values.items() if name not in names})


def make_row(facts: Mapping[str, Any], values: Mapping[str, Any]) -> ResultRow:
    """Return a row of facts and measured values; values that are not fields of `ResultRow` go to `extra`.

    Args:
        facts: fields of `ResultRow`, and further ones under "extra".
        values: fields of the test set and of metrics.
    """
    extra = facts.get("extra", {})
    return ResultRow.from_dict({**{k: v for k, v in facts.items() if k != "extra"}, **extra, **values})


def write_results(folder: Path, rows: Iterable[ResultRow]) -> Path:
    """Write all rows of a folder in one atomic replacement; return the file."""
    path = folder / FILE
    write_text(path, "".join(json.dumps(row.as_dict()) + "\n" for row in rows))
    return path


def read_results(path: Path) -> list[ResultRow]:
    """Read result rows from a results.jsonl, or from the one in a folder.

    Raises:
        UserError: the file does not exist, or a line is not a result row.
    """
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"no {path}: the run is not finished, or the folder is not a run")
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        try:
            rows.append(ResultRow.from_dict(parse_json(line, path)))
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{path}, line {number}: not a result row ({error})") from None
    return rows
