"""Gallery of test images whose answer changed: from right to wrong, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from ..core.types import Preprocess, Source
from ..explain.figures import RIGHT, WRONG, shorten
from .predictions import Predictions
from .style import INK, new_figure

SIZE = 128  # pixels of an image
PIXELS = Preprocess((SIZE, SIZE), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))  # pixel values in [0, 1]


@dataclass(frozen=True)
class Change:
    """Views whose answer changed between two models.

    Attributes:
        title: "right to wrong" or "wrong to right".
        views: [n], positions in the predictions, in random order.
    """

    title: str
    views: np.ndarray


def changes(before: Predictions, after: Predictions, seed: int = 0) -> list[Change]:
    """Return the views that one model answers right and the other wrong, in random order."""
    generator = np.random.default_rng(seed)
    lost, gained = before.right & ~after.right, ~before.right & after.right  # [n] each
    return [
        Change(title, generator.permutation(np.flatnonzero(views)))
        for title, views in (("right to wrong", lost), ("wrong to right", gained))
    ]


def gallery(
    source: Source,
    before: tuple[str, Predictions],
    after: tuple[str, Predictions],
    found: Sequence[Change],
    count: int,
) -> Figure | None:
    """Draw a row of images per change, with the true class and both answers; None if nothing changed.

    Args:
        source: data set of the predictions.
        before, after: label and predictions of the two models.
        found: changes; rows without any are left out.
        count: images per row.
    """
    rows = [change for change in found if len(change.views)]
    if not rows:
        return None
    figure, _ = new_figure(1.35 * count, 2.1 * len(rows), columns=0)
    # Annotations are not part of the layout: leave room for those of the last row.
    layout = figure.get_layout_engine()
    assert isinstance(layout, ConstrainedLayoutEngine)
    layout.set(rect=(0, 0.09 / len(rows), 1, 1 - 0.09 / len(rows)))
    axes = figure.subplots(len(rows), count, squeeze=False)
    for place in axes.flat:
        place.set_axis_off()
    for line, change in zip(axes, rows, strict=True):
        line[0].set_title(f"{change.title} ({len(change.views)} images)", fontsize=9, color=INK, loc="left")
        views = change.views[:count]
        first = before[1]
        images = source.images(first.rows[views], "test", first.draws[views], 0, PIXELS)  # [n, 3, H, W]
        for place, view, image in zip(line, views, images, strict=False):
            place.imshow(image.permute(1, 2, 0).clamp(0, 1).numpy())
            name = source.class_names[first.labels[view]]
            texts = [(name, INK, "bold")]
            for label, one in (before, after):
                answer = source.class_names[one.answers[view]]
                texts.append(
                    (f"{shorten(label, 12)}: {answer}", RIGHT if one.right[view] else WRONG, "normal")
                )
            for number, (text, colour, weight) in enumerate(texts):
                place.annotate(
                    shorten(text, 26),
                    (0.5, -0.08 - 0.13 * number),
                    xycoords="axes fraction",
                    ha="center",
                    va="top",
                    fontsize=6,
                    color=colour,
                    weight=weight,
                )
    return figure
