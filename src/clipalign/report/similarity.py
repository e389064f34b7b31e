"""Heat maps of class similarity: between class texts, and as semantic label smoothing uses it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure

from ..backbone import Backbone
from ..backbone.text.features import class_text_features
from ..losses import class_similarity
from .clustering import cluster_order
from .style import INK, matrix_axes, new_figure

PERCENTILE = 99.5  # of the values, at which the colour scale ends
LABELLED = 40  # classes; more names cannot be read


@torch.no_grad()
def text_similarity(backbone: Backbone, names: Sequence[str], templates: Sequence[str]) -> np.ndarray:
    """Return the cosines between class texts: [C, C]."""
    text = class_text_features(backbone, names, tuple(templates))  # [C, d]
    return class_similarity(text).cpu().double().numpy()


def smoothing_shares(similarity: np.ndarray, sharpness: float) -> np.ndarray:
    """Return softmax(sharpness * S) by row, from which semantic label smoothing takes its targets: [C, C].

    >>> smoothing_shares(np.array([[1.0, 0.9], [0.9, 1.0]]), 35).round(4).tolist()
    [[0.9707, 0.0293], [0.0293, 0.9707]]
    """
    return torch.from_numpy(sharpness * similarity).softmax(dim=-1).numpy()


def similarity_figure(similarity: np.ndarray, names: Sequence[str], sharpnesses: Sequence[float]) -> Figure:
    """Draw the cosines and the shares at each sharpness, in the order of a clustering of the cosines.

    Diagonals are left out: a class has a cosine of 1 with itself, beside which the differences between other classes
    cannot be seen.

    Args:
        similarity: S, [C, C].
        names: C names; they are printed if there are at most `LABELLED`.
        sharpnesses: factors h of softmax(h S).
    """
    order = cluster_order(similarity)
    tables = {"cosine of class texts": similarity}
    tables |= {f"softmax of {h:.3g} × cosine": smoothing_shares(similarity, h) for h in sharpnesses}
    labels = [names[c] for c in order] if len(names) <= LABELLED else []
    size = min(5.0, max(2.6, 0.17 * len(labels)) if labels else 3.4)
    figure, axes = new_figure((size + 0.8) * len(tables) + 1.0, size + (1.2 if labels else 0.5), len(tables))
    for number, (place, (title, table)) in enumerate(zip(axes, tables.items(), strict=True)):
        shown = table[np.ix_(order, order)].copy()  # [C, C]
        np.fill_diagonal(shown, np.nan)
        # A pair of synonyms would take the whole scale.
        limits = float(np.nanmin(shown)), float(np.nanpercentile(shown, PERCENTILE))
        picture = matrix_axes(place, shown, labels if number == 0 else (), labels, "viridis", limits)
        place.set_title(title, fontsize=9, color=INK)
        bar = figure.colorbar(picture, ax=place, shrink=0.7, pad=0.02, extend="max")
        bar.ax.tick_params(labelsize=6)
    return figure
