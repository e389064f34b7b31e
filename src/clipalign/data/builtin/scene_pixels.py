"""Render scenes: each drawing is sampled in a small window around it, at the requested size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .compose import MIN_CONTRAST, Clutter, Scene, contrast, paint, place
from .pictograms import ANGLE
from .scene_layout import Composition

# Side of the bounding box of a rotated square, relative to the square.
ROTATED = math.cos(math.radians(ANGLE)) + math.sin(math.radians(ANGLE))
SAMPLES = 64  # smallest number of samples across a drawing (128 pixels) before averaging, against aliasing
CHUNK = 128  # drawings sampled together; their sprites take 32 MB as floats


@dataclass(frozen=True)
class Window:
    """The square part of the canvas in which a drawing is sampled.

    Attributes:
        left, top: position on the canvas in pixels; may be negative.
        side: in pixels.
        oversample: samples per pixel and direction.
    """

    left: int
    top: int
    side: int
    oversample: int

    @classmethod
    def around(cls, item: Scene, size: int) -> Window:
        """Return the window of a drawing on a canvas of `size` pixels."""
        drawn = item.scale * size
        # A multiple of 4 limits the number of distinct sides, so that more windows are sampled together.
        side = 4 * math.ceil((drawn * ROTATED + 2) / 4)
        left, top = (math.floor((centre + 0.5) * size - side / 2) for centre in (item.x, item.y))
        return cls(left, top, side, max(1, math.ceil(SAMPLES / drawn)))

    def place(self, item: Scene, size: int) -> Scene:
        """Return the drawing with coordinates relative to the window."""
        x, y = ((c + 0.5) * size for c in (item.x, item.y))
        return replace(
            item,
            scale=item.scale * size / self.side,
            x=(x - self.left) / self.side - 0.5,
            y=(y - self.top) / self.side - 0.5,
        )

    def overlap(self, size: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Return the overlap with the canvas in canvas coordinates and in window coordinates, each (rows, columns)."""
        in_canvas, in_window = [], []
        for first in (self.top, self.left):
            start, end = max(first, 0), min(first + self.side, size)
            in_canvas.append(slice(start, end))
            in_window.append(slice(start - first, end - first))
        return (in_canvas[0], in_canvas[1]), (in_window[0], in_window[1])


def draw(
    scenes: Sequence[Composition], sprites: Tensor, clutters: Sequence[Clutter], size: int
) -> tuple[Tensor, list[Tensor]]:
    """Render B scenes. The pixels of a scene do not depend on the other scenes.

    Args:
        scenes: B scenes.
        sprites: [N, 4, s, s] uint8, straight alpha.
        clutters: for each scene, the drawings of the clutter family.
        size: side of the canvas in pixels.

    Returns:
        Images [B, 3, size, size] in [0, 1], and per scene the masks [objects, size, size]: the share of each pixel that
        shows the object.
    """
    windows = layers([item for scene in scenes for item in scene.objects], sprites, size)
    images, masks, first = [], [], 0
    for scene, clutter in zip(scenes, clutters, strict=True):
        objects = windows[first : first + len(scene.objects)]
        first += len(objects)
        image = draw_background(scene, objects, clutter, size)  # [3, size, size]
        covers = torch.zeros(len(objects), size, size)
        for cover, (window, layer) in zip(covers, objects, strict=True):
            (rows, columns), inner = window.overlap(size)
            visible = layer[:, inner[0], inner[1]]  # [4, rows, columns]
            image[:, rows, columns] = visible[:3] + (1 - visible[3]) * image[:, rows, columns]
            covers[:, rows, columns] *= 1 - visible[3]  # objects drawn earlier are occluded
            cover[rows, columns] = visible[3]
        images.append(image.clamp_(0, 1))
        masks.append(covers)
    return torch.stack(images), masks


def layers(items: Sequence[Scene], sprites: Tensor, size: int) -> list[tuple[Window, Tensor]]:
    """Return each drawing with its window: [4, side, side], premultiplied alpha."""
    windows = [Window.around(item, size) for item in items]
    groups: dict[tuple[int, int], list[int]] = {}
    for i, window in enumerate(windows):
        groups.setdefault((window.side, window.oversample), []).append(i)
    drawn: dict[int, Tensor] = {}
    for (side, oversample), members in groups.items():
        for chunk in (members[i : i + CHUNK] for i in range(0, len(members), CHUNK)):
            placed = place([windows[i].place(items[i], size) for i in chunk], sprites, side, oversample)
            drawn.update(zip(chunk, placed, strict=True))
    return [(window, drawn[i]) for i, window in enumerate(windows)]


def draw_background(
    scene: Composition, layers: Sequence[tuple[Window, Tensor]], clutter: Clutter, size: int
) -> Tensor:
    """Return the background of a scene, [3, size, size] in [0, 1].

    A background whose colours were not chosen for contrast is replaced by its negative if that makes the objects more
    visible. Unlike `contrasting`, black and white are no candidates, since sentences name the family.
    """
    spec = scene.background
    given = (clutter.background(spec, size) if spec.family == "clutter" else paint(spec, size)).float() / 255
    if spec.colours:
        return given
    weakest = _weakest(given, layers, size)
    negative = 1 - given
    return negative if weakest < MIN_CONTRAST and _weakest(negative, layers, size) > weakest else given


def _weakest(back: Tensor, layers: Sequence[tuple[Window, Tensor]], size: int) -> float:
    """Return the contrast of the least visible object."""
    contrasts = []
    for window, layer in layers:
        (rows, columns), inner = window.overlap(size)
        visible = layer[None, :, inner[0], inner[1]]  # [1, 4, rows, columns]
        contrasts.append(float(contrast(back[None, :, rows, columns], visible)))
    return min(contrasts)
