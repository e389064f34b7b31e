"""Examples of the page: test scenes of Pictoscenes, rendered when the server starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..data.builtin.pictoscenes import Pictoscenes

ROWS = (512, 1006, 505, 1012, 1005, 506)  # validation and test scenes with two to six drawings
SIZE = 384  # pixels
DISTRACTORS = 4  # class names of things that the scene does not show


@dataclass(frozen=True)
class Example:
    """A picture with class names and captions to try on it.

    Attributes:
        file: PNG file.
        names: names of the drawings, and of some that are not there, in alphabetical order.
        captions: a sentence about each drawing.
    """

    file: Path
    names: tuple[str, ...]
    captions: tuple[str, ...]


def write_examples(folder: Path) -> list[Example]:
    """Render the examples into an existing folder."""
    source, examples = Pictoscenes(1), []
    for number, row in enumerate(ROWS):
        scene = source.sample(row, SIZE)
        file = folder / f"example-{number + 1}.png"
        pixels = (scene.image.permute(1, 2, 0) * 255).round().byte().numpy()  # [3, S, S] -> [S, S, 3]
        Image.fromarray(pixels).save(file)
        others = sorted(set(source.pictograms.class_names) - set(scene.names))
        drawn = np.random.default_rng(row).choice(others, DISTRACTORS, replace=False).tolist()
        captions = tuple(s.text for s in scene.sentences if s.thing is not None)
        examples.append(Example(file, tuple(sorted((*scene.names, *drawn))), captions))
    return examples
