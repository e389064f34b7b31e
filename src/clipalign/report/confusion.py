"""Confusion matrices of table lines: rows are true classes, columns predictions, clustered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from .clustering import cluster_order
from .predictions import Predictions
from .style import INK, matrix_axes, new_figure

SHOWN = 24  # classes of a matrix, at most; more labels are too small to read


@dataclass(frozen=True)
class Confusion:
    """Confusions of one table line.

    Attributes:
        title: the line.
        shares: [k, k + 1] in [0, 1], share of the images of each true class (row) with each prediction (column); the
            last column holds all other classes. Rows without images are NaN.
    """

    title: str
    shares: np.ndarray


def confusion_counts(seeds: Sequence[Predictions], classes: int) -> np.ndarray:
    """Return how often each class is predicted for each true class, summed over seeds: [C, C]."""
    counts = np.zeros((classes, classes))
    for one in seeds:
        np.add.at(counts, (one.labels, one.answers), 1)
    return counts


def chosen_classes(counts: np.ndarray, limit: int = SHOWN) -> np.ndarray:
    """Return the classes to show, clustered: those that occur, or the most confused ones if they are too many.

    Args:
        counts: [C, C], summed over the lines to compare.
        limit: number of classes, at most.

    Returns:
        [k] int64.
    """
    occurring = np.flatnonzero(counts.sum(axis=0) + counts.sum(axis=1))
    if len(occurring) > limit:
        confused = np.triu(counts + counts.T, 1)  # [C, C], each pair once
        pairs = np.argsort(-confused, axis=None, kind="stable")
        chosen: dict[int, None] = {}
        for pair in pairs[np.take(confused, pairs) > 0]:
            both = [int(c) for c in np.unravel_index(pair, confused.shape) if int(c) not in chosen]
            if len(chosen) + len(both) > limit:
                break
            chosen |= dict.fromkeys(both)
        occurring = np.array(sorted(chosen), dtype=np.int64)
    among = counts[np.ix_(occurring, occurring)]  # [k, k]
    totals = counts[occurring].sum(axis=1, keepdims=True)  # [k, 1]
    return occurring[cluster_order(among / np.maximum(totals, 1))]


def confusion(title: str, counts: np.ndarray, shown: np.ndarray) -> Confusion:
    """Return the confusions of a line among some classes, with a column for all others."""
    totals = counts[shown].sum(axis=1)  # [k]
    among = counts[np.ix_(shown, shown)]  # [k, k]
    table = np.column_stack([among, totals - among.sum(axis=1)])  # [k, k + 1]
    with np.errstate(invalid="ignore", divide="ignore"):
        return Confusion(title, table / totals[:, None])


def confusion_figure(lines: Sequence[Confusion], names: Sequence[str]) -> Figure:
    """Draw the matrices side by side, with one colour scale.

    Args:
        lines: matrices of the same classes.
        names: k names.
    """
    size = max(2.4, 0.17 * len(names))
    figure, axes = new_figure(1.6 + (size + 0.9) * len(lines), size + 1.9, columns=len(lines))
    for number, (one, place) in enumerate(zip(lines, axes, strict=True)):
        picture = matrix_axes(
            place, one.shares, names if number == 0 else (), [*names, "other classes"], "Blues", (0, 1)
        )
        place.axvline(len(names) - 0.5, color=INK, linewidth=0.6)
        place.set_title(f"{one.title}: prediction", fontsize=9, color=INK)
    axes[0].set_ylabel("true class", fontsize=8)
    bar = figure.colorbar(picture, ax=axes, shrink=0.6, pad=0.01)
    bar.set_label("share of the images of the true class", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure
