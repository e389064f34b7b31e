"""Pixels of scenes: each drawing is sampled in a window of its own, at the size that is asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .compose import MIN_CONTRAST, Clutter, Scene, contrast, paint, place
from .pictograms import ANGLE
from .scene_layout import Composition

# Side of a turned square's box over the square's.
TURNED = math.cos(math.radians(ANGLE)) + math.sin(math.radians(ANGLE))
SAMPLES = 64  # sample a drawing (128 pixels a side) at no fewer points across before averaging down
AT_ONCE = 128  # drawings sampled together: their sprites as floats take 32 MB


@dataclass(frozen=True)
class Window:
    """Where on the canvas a drawing's window lies: `left` and `top` in pixels, `side` pixels wide."""

    left: int
    top: int
    side: int
    oversample: int

    @classmethod
    def around(cls, item: Scene, size: int) -> Window:
        drawn = item.scale * size
        side = 4 * math.ceil((drawn * TURNED + 2) / 4)  # few different sides: many are sampled together
        left, top = (math.floor((centre + 0.5) * size - side / 2) for centre in (item.x, item.y))
        return cls(left, top, side, max(1, math.ceil(SAMPLES / drawn)))

    def place(self, item: Scene, size: int) -> Scene:
        """The drawing as a scene on the window."""
        x, y = ((c + 0.5) * size for c in (item.x, item.y))
        return replace(
            item,
            scale=item.scale * size / self.side,
            x=(x - self.left) / self.side - 0.5,
            y=(y - self.top) / self.side - 0.5,
        )

    def cut(self, size: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """What of the canvas the window covers, and what of the window lies on the canvas: rows, columns."""
        on, of = [], []
        for first in (self.top, self.left):
            start, end = max(first, 0), min(first + self.side, size)
            on.append(slice(start, end))
            of.append(slice(start - first, end - first))
        return (on[0], on[1]), (of[0], of[1])


def draw(
    scenes: Sequence[Composition], sprites: Tensor, clutters: Sequence[Clutter], size: int
) -> tuple[Tensor, list[Tensor]]:
    """Renders scenes.

    A scene's pixels depend on the scene alone, not on what is rendered beside it.

    Args:
        scenes: B scenes.
        sprites: [rows, 4, s, s] uint8, straight alpha.
        clutters: for each scene, the drawings of the clutter family.
        size: side of the canvas in pixels.

    Returns:
        Images [B, 3, size, size] in [0, 1], and for each scene masks [objects, size, size]: the share of each
        pixel that shows the object.
    """
    placed = layers([item for scene in scenes for item in scene.objects], sprites, size)
    images, masks, first = [], [], 0
    for scene, clutter in zip(scenes, clutters, strict=True):
        mine = placed[first : first + len(scene.objects)]
        first += len(mine)
        image = painted(scene, mine, clutter, size)
        covers = torch.zeros(len(mine), size, size)
        for cover, (window, layer) in zip(covers, mine, strict=True):
            on, of = window.cut(size)
            rows, columns = on
            piece = layer[:, of[0], of[1]]
            image[:, rows, columns] = piece[:3] + (1 - piece[3]) * image[:, rows, columns]
            covers[:, rows, columns] *= 1 - piece[3]
            cover[rows, columns] = piece[3]
        images.append(image.clamp_(0, 1))
        masks.append(covers)
    return torch.stack(images), masks


def layers(items: Sequence[Scene], sprites: Tensor, size: int) -> list[tuple[Window, Tensor]]:
    """Each drawing in its window, premultiplied: [4, side, side]."""
    windows = [Window.around(item, size) for item in items]
    groups: dict[tuple[int, int], list[int]] = {}
    for i, window in enumerate(windows):
        groups.setdefault((window.side, window.oversample), []).append(i)
    drawn: dict[int, Tensor] = {}
    for (side, oversample), members in groups.items():
        for chunk in (members[i : i + AT_ONCE] for i in range(0, len(members), AT_ONCE)):
            placed = place([windows[i].place(items[i], size) for i in chunk], sprites, side, oversample)
            drawn.update(zip(chunk, placed, strict=True))
    return [(window, drawn[i]) for i, window in enumerate(windows)]


def painted(
    scene: Composition, layers: Sequence[tuple[Window, Tensor]], clutter: Clutter, size: int
) -> Tensor:
    """[3, size, size]; where no colours were chosen for contrast, the negative if the objects need it.

    Never plain black or white instead: the family is what sentences speak of.
    """
    spec = scene.background
    given = (clutter.background(spec, size) if spec.family == "clutter" else paint(spec, size)).float() / 255
    if spec.colours:
        return given
    weakest = _weakest(given, layers, size)
    negative = 1 - given
    return negative if weakest < MIN_CONTRAST and _weakest(negative, layers, size) > weakest else given


def _weakest(back: Tensor, layers: Sequence[tuple[Window, Tensor]], size: int) -> float:
    """Contrast of the object that stands out least."""
    found = []
    for window, layer in layers:
        (rows, columns), of = window.cut(size)
        found.append(float(contrast(back[None, :, rows, columns], layer[None, :, of[0], of[1]])))
    return min(found)
