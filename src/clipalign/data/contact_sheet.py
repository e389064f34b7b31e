"""Contact sheet: random images of each class, cropped as a model receives them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ..core.errors import UserError
from ..core.types import Preprocess, Source
from .decode import printable

CLASSES, COLUMNS = 40, 6  # classes drawn, images of each
SIDE, MARGIN, LABEL = 112, 6, 180  # pixels: of an image, between images, for class names
LINE = 24  # characters of a class name


def draw_sheet(source: Source, path: Path, seed: int) -> int:
    """Write a row of random images for each class; broken files are left out.

    Args:
        source: the data set.
        path: picture to write; its suffix is the format.
        seed: of the draw.

    Returns:
        The number of classes drawn, the first `CLASSES` of the data set at most.
    """
    rng = np.random.default_rng(seed)
    names = source.class_names[:CLASSES]
    size = (LABEL + COLUMNS * (SIDE + MARGIN) + MARGIN, MARGIN + len(names) * (SIDE + MARGIN))
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for c, name in enumerate(names):
        top = MARGIN + c * (SIDE + MARGIN)
        rows = np.flatnonzero(source.labels == c)
        text = printable(name)
        text = text if len(text) <= LINE else text[: LINE - 3] + "..."
        pen.text((MARGIN, top + SIDE // 2 - 14), f"{text}\n{len(rows)} images", fill="black")
        for column, picture in enumerate(thumbnails(source, rng.permutation(rows))):
            sheet.paste(picture, (LABEL + column * (SIDE + MARGIN), top))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return len(names)


def thumbnails(source: Source, rows: np.ndarray) -> list[Image.Image]:
    """Return evaluation views of the first rows that decode."""
    preprocess = Preprocess((SIDE, SIDE), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear")
    drawn: list[Image.Image] = []
    for row in rows:
        if len(drawn) == COLUMNS:
            break
        try:
            view = source.images(np.array([row]), "test", np.zeros(1, np.int64), 0, preprocess)[
                0
            ]  # [3, H, W]
        except UserError:
            continue  # a broken file
        pixels = (view.clamp(0, 1).permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)  # [H, W, 3]
        drawn.append(Image.fromarray(pixels))
    return drawn
