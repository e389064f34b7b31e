"""Contact sheet: small pictures of files with their scores, a block per query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from ..core.errors import UserError
from ..data.decode import printable, read_image
from ..explain.figures import FAINT, FONT, INK, shorten

COLUMNS = 5
CELL, CAPTION, HEADING, EDGE, GAP = 1.5, 0.28, 0.34, 0.1, 0.12  # inches
PIXELS = 320  # longer side of a small picture


@dataclass(frozen=True)
class SheetRow:
    """Pictures below one heading.

    Attributes:
        heading: text above the pictures.
        files: images in order; a missing one is drawn as an empty cell.
        scores: one number per image.
    """

    heading: str
    files: Sequence[Path]
    scores: Sequence[float]

    @property
    def lines(self) -> int:
        """Lines of pictures."""
        return -(-len(self.files) // COLUMNS)


def contact_sheet(rows: Sequence[SheetRow]) -> Figure:
    """Draw pictures in lines of `COLUMNS`, with rank, score and file name below each."""
    columns = min(COLUMNS, max(len(row.files) for row in rows))
    width = 2 * EDGE + columns * (CELL + GAP) - GAP
    height = 2 * EDGE + sum(HEADING + row.lines * (CELL + CAPTION) for row in rows)
    figure = Figure(figsize=(width, height), dpi=160, facecolor="white")
    FigureCanvasAgg(figure)
    top = height - EDGE
    for row in rows:
        figure.text(
            EDGE / width,
            (top - 0.22) / height,
            shorten(row.heading, round(11 * width)),
            fontsize=9,
            family=FONT,
            color=INK,
            weight="bold",
            parse_math=False,  # two dollar signs would start a formula
        )
        top -= HEADING
        for i, (file, score) in enumerate(zip(row.files, row.scores, strict=True)):
            line, column = divmod(i, COLUMNS)
            x, y = EDGE + column * (CELL + GAP), top - line * (CELL + CAPTION) - CELL
            axes = figure.add_axes((x / width, y / height, CELL / width, CELL / height))
            axes.set_axis_off()
            if (picture := small_picture(file)) is None:
                axes.text(0.5, 0.5, "missing", ha="center", fontsize=7, family=FONT, color=FAINT)
            else:
                axes.imshow(picture, interpolation="lanczos")
                axes.set_anchor("S")
            caption = f"{i + 1}.  {score:.3f}  {shorten(printable(f'{file.parent.name}/{file.name}'), 18)}"
            figure.text(
                (x + CELL / 2) / width,
                (y - 0.14) / height,
                caption,
                fontsize=6.5,
                family=FONT,
                color=FAINT,
                ha="center",
                parse_math=False,
            )
        top -= row.lines * (CELL + CAPTION)
    return figure


def small_picture(file: Path) -> Image.Image | None:
    """Return a file in small; None if it cannot be read any more."""
    try:
        picture = read_image(file)
    except UserError:
        return None
    picture.thumbnail((PIXELS, PIXELS))
    return picture
