"""Reliability plot: accuracy over confidence, in bins of equal numbers of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from .predictions import Predictions
from .style import INK, LineStyle, legend_above, new_figure

BINS = 10


@dataclass(frozen=True)
class Reliability:
    """Confidence and accuracy by bin, in [0, 1].

    Attributes:
        confidence: [b], mean probability of the prediction, ascending.
        accuracy: [b], share of right predictions.
        error: [b], binomial standard error of the accuracy.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    error: np.ndarray


def reliability(seeds: Sequence[Predictions], bins: int = BINS) -> Reliability | None:
    """Bin the predictions of all seeds by confidence; None if a run stored no probabilities.

    Args:
        seeds: predictions of each seed.
        bins: number of bins, of equally many predictions each.
    """
    stored = [one.probabilities for one in seeds]
    known = [probabilities[:, 0] for probabilities in stored if probabilities is not None]
    if len(known) < len(seeds) or not sum(map(len, known)):
        return None
    confidence = np.concatenate(known)  # [n]
    right = np.concatenate([one.right for one in seeds])  # [n]
    parts = [part for part in np.array_split(np.argsort(confidence, kind="stable"), bins) if len(part)]
    shares = np.array([right[part].mean() for part in parts])  # [b]
    # Seeds share the test images, so they do not add independent ones.
    sizes = np.array([len(part) for part in parts]) / len(seeds)  # [b]
    return Reliability(
        np.array([confidence[part].mean() for part in parts]), shares, np.sqrt(shares * (1 - shares) / sizes)
    )


def reliability_figure(lines: Mapping[str, Reliability], styles: Mapping[str, LineStyle]) -> Figure:
    """Plot accuracy over confidence, with the diagonal of perfect calibration."""
    figure, (axes,) = new_figure(4.6, 4.4)
    axes.plot([0, 100], [0, 100], ":", color=INK, linewidth=1)
    for label, one in lines.items():
        style = styles[label]
        axes.errorbar(
            100 * one.confidence,
            100 * one.accuracy,
            yerr=196 * one.error,
            color=style.colour,
            linestyle=style.line,
            marker=style.marker,
            markersize=3.5,
            linewidth=1.5,
            elinewidth=0.6,
            label=label,
        )
    axes.set(xlim=(0, 100), ylim=(0, 100))
    axes.set_xlabel("confidence: probability of the prediction (%)", fontsize=8)
    axes.set_ylabel("accuracy (%)", fontsize=8)
    legend_above(axes)
    return figure
