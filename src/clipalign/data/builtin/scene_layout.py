"""Draw the contents of scenes: objects, sizes, positions, colours and backgrounds.

Each scene has its own generator, so it depends on its number only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Literal

import numpy as np
import torch

from ...core.types import Stage
from .compose import MIN_CONTRAST, Background, Scene
from .pictograms import ANGLE, FAMILY_SHARES, INSTANCES, Pictograms
from .scene_grammar import COLOUR_NAMES, COLOURS, THIRD, Facts, Thing

Part = Literal["train", "validation", "test", "style"]
PARTS: tuple[Part, ...] = ("train", "validation", "test", "style")
STAGES: dict[Part, Stage] = {"train": "train", "validation": "validation", "test": "test", "style": "test"}

SEED = 20251  # of the data set; runs do not change it
STYLE = "twemoji"  # the held-out style, whose drawings no other part uses
OBJECTS = (2, 6)  # smallest and largest number of objects in a scene
# Side of a drawing relative to the canvas, for each word of `SIZES`; the gaps make the words unambiguous.
SCALES = ((0.20, 0.24), (0.28, 0.33), (0.38, 0.46))
FILL = 0.5  # largest share of the canvas that the squares of all objects may cover
CLEAR = 0.02  # smallest distance of centres from a boundary of thirds, so that places are unambiguous
TOUCH = 0.92  # squares may overlap by 8 % of their sides, since few drawings fill theirs
HELD_OUT = 0.25  # share of the pairs of concepts that never occur together in training
JITTER = 0.03  # largest change of a named colour's channels


@dataclass(frozen=True)
class Composition:
    """One scene: its facts, and how to render it. Its `repr` enters the fingerprint, so names must not change.

    Attributes:
        facts: the facts that sentences can be true of.
        objects: drawings in the order of `facts.things`, later ones in front; `sprite` is a row of Pictograms.
        background: the background of the scene.
    """

    facts: Facts
    objects: tuple[Scene, ...]
    background: Background


class Layout:
    """Composes scenes of Pictograms drawings.

    Attributes:
        held_out: [concepts, concepts] bool, symmetric: pairs that never occur together in training.
        drawings: (part, style) -> rows of Pictograms used in its scenes, at most one per concept.
        styles: part -> its styles, indices into `Pictograms.domain_names`.
    """

    def __init__(self, pictograms: Pictograms) -> None:
        self.pictograms = pictograms
        self._palette = np.array(list(COLOURS.values()))
        concepts = len(pictograms.class_names)
        above = np.triu(np.random.default_rng([SEED, 0]).random((concepts, concepts)) < HELD_OUT, 1)
        self.held_out: np.ndarray = above | above.T
        unseen = pictograms.domain_names.index(STYLE)
        seen = tuple(d for d in range(len(pictograms.domain_names)) if d != unseen)
        self.styles: dict[Part, tuple[int, ...]] = {part: seen for part in PARTS} | {"style": (unseen,)}
        splits, every = pictograms.splits, np.arange(len(pictograms))
        rows = {
            "train": splits.base_to_new_train,
            "validation": splits.base_to_new_validation,
            "test": splits.base_to_new_test,
            "style": every,
        }
        self.drawings = {
            (part, style): rows[part][pictograms.domains[rows[part]] == style]
            for part in PARTS
            for style in self.styles[part]
        }

    def style(self, number: int | np.ndarray, part: Part) -> np.ndarray:
        """Return the domain of scenes by number; the styles of a part alternate."""
        return np.array(self.styles[part])[np.asarray(number) % len(self.styles[part])]

    def compose(self, part: Part, number: int) -> Composition:
        """Compose scene `number` of a part."""
        rng = np.random.default_rng([SEED, 1, PARTS.index(part), number])
        style = int(self.style(number, part))
        rows = self._choose(self.drawings[part, style], part in ("test", "style"), rng)
        sizes, scales, centres = _arrange(len(rows), rng)
        family = str(rng.choice(list(FAMILY_SHARES), p=list(FAMILY_SHARES.values())))
        instances = INSTANCES[STAGES[part]]
        instance = instances[int(rng.integers(len(instances)))]
        monochrome = bool(self.pictograms.index["domains"][style]["monotone"])
        colours = self._background_colours(family, None if monochrome else rows, rng)
        inks = self._inks(colours, len(rows), rng) if monochrome else [None] * len(rows)
        background = Background(family, instance, tuple(self._shade(c, rng) for c in colours))
        things, objects = [], []
        for row, size, scale, (x, y), ink in zip(rows, sizes, scales, centres, inks, strict=True):
            things.append(Thing(int(self.pictograms.labels[row]), size, x, y, ink))
            angle = float(rng.uniform(-ANGLE, ANGLE))
            shade = None if ink is None else self._shade(ink, rng)
            objects.append(Scene(row, scale, x, y, angle, background, shade))
        return Composition(Facts(tuple(things), family, tuple(sorted(colours))), tuple(objects), background)

    def _choose(self, rows: np.ndarray, unseen: bool, rng: np.random.Generator) -> list[int]:
        """Choose drawings of distinct concepts.

        In training and validation no two form a held-out pair. In tests (`unseen`), each forms a held-out pair with at
        least one other.
        """
        count = int(rng.integers(OBJECTS[0], OBJECTS[1] + 1))
        concepts = self.pictograms.labels[rows]
        chosen = [int(rng.integers(len(rows)))]
        while len(chosen) < count:
            pairs = self.held_out[concepts[chosen]][:, concepts]  # [chosen, candidates]
            free = pairs.any(0) if unseen else ~pairs.any(0)
            free[chosen] = False
            if not free.any():
                break
            chosen.append(int(rng.choice(np.flatnonzero(free))))
        return [int(row) for row in rows[chosen]]

    def _background_colours(
        self, family: str, rows: list[int] | None, rng: np.random.Generator
    ) -> tuple[int, ...]:
        """Choose colours against which every drawing is visible on average, or the best if none is good enough.

        For monochrome drawings (`rows` is None) any colours will do, since their inks are chosen afterwards.
        """
        if family not in ("flat", "gradient", "stripes"):
            return ()
        colours = range(len(COLOUR_NAMES))
        options: list[tuple[int, ...]] = [(c,) for c in colours]
        if family != "flat":
            options = list(combinations(colours, 2))
        if rows is not None:
            contrasts = self.contrast[rows]  # [drawings, colours]
            weakest = np.array([contrasts[:, option].mean(1).min() for option in options])  # [options]
            enough = weakest >= MIN_CONTRAST
            options = [options[i] for i in (np.flatnonzero(enough) if enough.any() else [weakest.argmax()])]
        return tuple(int(c) for c in rng.permutation(options[int(rng.integers(len(options)))]))

    def _inks(self, background: tuple[int, ...], count: int, rng: np.random.Generator) -> list[int]:
        """Choose inks that are visible against the colours of the background."""
        free = [c for c in range(len(COLOUR_NAMES)) if c not in background]
        if background:
            # [colours, background colours]
            gaps = np.abs(self._palette[:, None] - self._palette[list(background)]).mean(2)
            # Prefer inks that contrast with each of two colours over those that do on average.
            everywhere = [c for c in free if gaps[c].min() >= MIN_CONTRAST]
            free = everywhere or [c for c in free if gaps[c].mean() >= MIN_CONTRAST]
        return [int(c) for c in rng.choice(free, count)]

    def _shade(self, colour: int, rng: np.random.Generator) -> tuple[float, float, float]:
        """Return a named colour with some jitter."""
        red, green, blue = (self._palette[colour] + rng.uniform(-JITTER, JITTER, 3)).clip(0, 1).tolist()
        return red, green, blue

    @cached_property
    def contrast(self) -> np.ndarray:
        """Mean absolute difference between each drawing and each named colour, under its ink: [rows, colours]."""
        # Every fourth pixel in both directions is enough for a mean.
        thumbs = self.pictograms.sprites[:, :, ::4, ::4].float() / 255  # [rows, 4, 32, 32]
        alpha = thumbs[:, 3:]  # [rows, 1, 32, 32]
        colour = thumbs[:, :3] * alpha  # [rows, 3, 32, 32]
        gaps = [
            (colour - alpha * torch.tensor(c).view(1, 3, 1, 1)).abs().mean(1).sum((1, 2))
            for c in COLOURS.values()
        ]
        return (torch.stack(gaps, 1) / alpha.sum((1, 2, 3))[:, None]).numpy()  # [rows, colours]


def _arrange(
    count: int, rng: np.random.Generator
) -> tuple[list[int], list[float], list[tuple[float, float]]]:
    """Draw sizes, scales and centres of squares that lie inside the canvas and hardly overlap."""
    sizes = rng.integers(0, len(SCALES), count)
    for _ in range(1000):
        scales = np.array([rng.uniform(*SCALES[size]) for size in sizes])
        centres = _centres(scales, rng) if (scales**2).sum() <= FILL else None
        if centres is not None:
            return sizes.tolist(), scales.tolist(), [(float(x), float(y)) for x, y in centres]
        # No room: shrink the largest object by one size, if possible.
        sizes[sizes.argmax()] = max(0, sizes.max() - 1)
    raise RuntimeError(f"no room for {count} objects")


def _centres(scales: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """Return centres [k, 2], placing the largest object first; None if an object has no room."""
    centres = np.full((len(scales), 2), np.nan)
    done: list[int] = []
    for i in np.argsort(-scales):
        room = (1 - scales[i]) / 2
        tries = rng.uniform(-room, room, (60, 2))
        free = (np.abs(np.abs(tries) - THIRD) >= CLEAR).all(1)  # [60]
        gaps = np.abs(tries[:, None] - centres[done]).max(2)  # [60, done], Chebyshev distance
        free &= (gaps >= TOUCH * (scales[i] + scales[done]) / 2).all(1)
        if not free.any():
            return None
        centres[i] = tries[free.argmax()]
        done.append(int(i))
    return centres
