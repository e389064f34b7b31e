"""Accuracy per class, with gains and losses against the baseline."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .document import Grid
from .predictions import Predictions
from .sections import signed

ALL = 40  # classes; tables of more show the largest gains and losses only
ENDS = 10  # classes at either end of such a table
CSV_HEADS = ("task", "target", "test", "class", "images", "method", "accuracy", "baseline", "difference")


@dataclass(frozen=True)
class ClassAccuracies:
    """Accuracies per class of all lines on one test set, in [0, 1].

    Attributes:
        task, target, test: test set.
        baseline: label of the baseline.
        classes: [k], positions in the names.
        names: k names.
        images: [k], views per class.
        accuracy: label -> [k], mean over seeds; the baseline included.
    """

    task: str
    target: str
    test: str
    baseline: str
    classes: np.ndarray
    names: tuple[str, ...]
    images: np.ndarray
    accuracy: Mapping[str, np.ndarray]

    @property
    def gains(self) -> dict[str, np.ndarray]:
        """Label -> [k], accuracy minus that of the baseline."""
        base = self.accuracy[self.baseline]
        return {label: values - base for label, values in self.accuracy.items() if label != self.baseline}


def class_accuracies(
    place: tuple[str, str, str],
    lines: Mapping[str, Sequence[Predictions]],
    baseline: str,
    names: Sequence[str],
) -> ClassAccuracies:
    """Return the accuracies per class of lines tested on the same views.

    Args:
        place: task, target and test set.
        lines: label -> predictions of each seed; the baseline included.
        baseline: label of the baseline.
        names: class names of the source.
    """
    first = lines[baseline][0]
    classes, at = np.unique(first.labels, return_inverse=True)  # [k], [n]
    images = np.bincount(at)  # [k]
    accuracy = {
        label: np.mean([np.bincount(at, one.right.astype(float)) for one in seeds], axis=0) / images
        for label, seeds in lines.items()
    }
    return ClassAccuracies(*place, baseline, classes, tuple(names[c] for c in classes), images, accuracy)


def class_grid(found: ClassAccuracies) -> Grid:
    """Return a table of classes, the largest mean gain over the lines first."""
    gains = found.gains
    mean = np.mean(list(gains.values()), axis=0)  # [k]
    order = np.argsort(-mean, kind="stable")
    if len(order) > ALL:
        order = np.r_[order[:ENDS], order[-ENDS:]]
    lines = tuple(
        (
            found.names[i],
            str(found.images[i]),
            f"{100 * found.accuracy[found.baseline][i]:.0f}",
            *(signed(100 * values[i], 0) for values in gains.values()),
        )
        for i in order
    )
    which = f"The {ENDS} largest gains and losses of {len(mean)} classes, by" if len(mean) > ALL else "By"
    note = (
        f"{which} mean over the columns of differences. In percent and percentage points, mean over seeds. A class has "
        "few images: single differences are noise. classes.csv has all classes."
    )
    place = ", ".join(filter(None, (found.task, found.target, found.test)))
    heads = ("class", "images", found.baseline, *gains)
    return Grid(heads, lines, note, title=f"{place}: accuracy of {found.baseline}, and difference from it")


def classes_csv(tables: Iterable[ClassAccuracies]) -> str:
    """Return all classes of all tables as CSV, in percent and percentage points."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_HEADS)
    for found in tables:
        base = found.accuracy[found.baseline]
        for label, gain in found.gains.items():
            for i, name in enumerate(found.names):
                numbers = (f"{100 * value:.4f}" for value in (found.accuracy[label][i], base[i], gain[i]))
                writer.writerow(
                    [found.task, found.target, found.test, name, found.images[i], label, *numbers]
                )
    return out.getvalue()
