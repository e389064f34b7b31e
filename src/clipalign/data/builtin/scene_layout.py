"""What stands in a scene and where: drawn from generators of its own, so that a scene depends on its number alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
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

SEED = 20251  # of the data set, not of a run
STYLE = "twemoji"  # the held-out style: none of its drawings is in another part
OBJECTS = (2, 6)
# Side of a drawing over the side of the canvas, for each word of `SIZES`; the gaps keep the words apart.
SCALES = ((0.20, 0.24), (0.28, 0.33), (0.38, 0.46))
FILL = 0.5  # the largest share of the canvas that the squares of all objects may take together
CLEAR = 0.02  # centres keep this far from where two thirds of the canvas part
TOUCH = 0.92  # squares may overlap by 8 % of their sides: few drawings fill theirs
HELD_OUT = 0.25  # share of all pairs of concepts that never stand together in training
JITTER = 0.03  # of a named colour's channels


@dataclass(frozen=True)
class Composition:
    """One scene, ready to be rendered and to be spoken of.

    Attributes:
        facts: what is true of it.
        objects: the drawings in the order of `facts.things`, later ones in front; `sprite` is a row of
            `Pictograms`.
        background: what stands behind all.
    """

    facts: Facts
    objects: tuple[Scene, ...]
    background: Background


class Layout:
    """Draws scenes of Pictograms drawings.

    Attributes:
        held_out: [concepts, concepts] bool, symmetric: pairs that never stand together in training.
        drawings: (part, style) -> rows of Pictograms that its scenes are made of, one for each concept at most.
        styles: part -> its styles, positions in `Pictograms.domain_names`.
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
        """Domain of scenes: the styles of a part take turns."""
        return np.array(self.styles[part])[np.asarray(number) % len(self.styles[part])]

    def compose(self, part: Part, number: int) -> Composition:
        """Scene `number` of a part."""
        rng = np.random.default_rng([SEED, 1, PARTS.index(part), number])
        style = int(self.style(number, part))
        rows = self._choose(self.drawings[part, style], part in ("test", "style"), rng)
        sizes, scales, centres = _arrange(len(rows), rng)
        family = str(rng.choice(list(FAMILY_SHARES), p=list(FAMILY_SHARES.values())))
        instances = INSTANCES[STAGES[part]]
        instance = instances[int(rng.integers(len(instances)))]
        inked = bool(self.pictograms.index["domains"][style]["monotone"])
        behind = self._background_colours(family, None if inked else rows, rng)
        inks = self._inks(behind, len(rows), rng) if inked else [None] * len(rows)
        background = Background(family, instance, tuple(self._shade(c, rng) for c in behind))
        things, objects = [], []
        for row, size, scale, (x, y), ink in zip(rows, sizes, scales, centres, inks, strict=True):
            things.append(Thing(int(self.pictograms.labels[row]), size, x, y, ink))
            angle = float(rng.uniform(-ANGLE, ANGLE))
            shade = None if ink is None else self._shade(ink, rng)
            objects.append(Scene(row, scale, x, y, angle, background, shade))
        return Composition(Facts(tuple(things), family, tuple(sorted(behind))), tuple(objects), background)

    def _choose(self, rows: np.ndarray, unseen: bool, rng: np.random.Generator) -> list[int]:
        """Drawings of different concepts.

        In training and validation no two are a held-out pair; in tests each stands beside at least one
        concept that it never stood beside in training.
        """
        many = int(rng.integers(OBJECTS[0], OBJECTS[1] + 1))
        concepts = self.pictograms.labels[rows]
        chosen = [int(rng.integers(len(rows)))]
        while len(chosen) < many:
            pairs = self.held_out[concepts[chosen]][:, concepts]
            free = pairs.any(0) if unseen else ~pairs.any(0)
            free[chosen] = False
            if not free.any():
                break
            chosen.append(int(rng.choice(np.flatnonzero(free))))
        return [int(row) for row in rows[chosen]]

    def _background_colours(
        self, family: str, rows: list[int] | None, rng: np.random.Generator
    ) -> tuple[int, ...]:
        """Colours that all drawings stand out from on average; the best there are where none is enough.

        Drawings in ink take any: their inks are chosen after them.
        """
        if family not in ("flat", "gradient", "stripes"):
            return ()
        many = len(COLOUR_NAMES)
        options = [(c,) for c in range(many)] if family == "flat" else _pairs(many)
        if rows is not None:
            seen = self.contrast[rows]
            weakest = np.array([seen[:, option].mean(1).min() for option in options])
            enough = weakest >= MIN_CONTRAST
            options = [options[i] for i in (np.flatnonzero(enough) if enough.any() else [weakest.argmax()])]
        return tuple(int(c) for c in rng.permutation(options[int(rng.integers(len(options)))]))

    def _inks(self, behind: tuple[int, ...], many: int, rng: np.random.Generator) -> list[int]:
        free = [c for c in range(len(COLOUR_NAMES)) if c not in behind]
        if behind:
            gaps = np.abs(self._palette[:, None] - self._palette[list(behind)]).mean(2)
            # Against each of two colours where there is such an ink, else against both on average.
            everywhere = [c for c in free if gaps[c].min() >= MIN_CONTRAST]
            free = everywhere or [c for c in free if gaps[c].mean() >= MIN_CONTRAST]
        return [int(c) for c in rng.choice(free, many)]

    def _shade(self, colour: int, rng: np.random.Generator) -> tuple[float, float, float]:
        red, green, blue = (self._palette[colour] + rng.uniform(-JITTER, JITTER, 3)).clip(0, 1).tolist()
        return red, green, blue

    @cached_property
    def contrast(self) -> np.ndarray:
        """[rows, colours]: mean absolute difference between a drawing's ink and a named colour."""
        # Every fourth pixel each way: a mean over a drawing needs no more.
        thumbs = self.pictograms.sprites[:, :, ::4, ::4].float() / 255
        alpha = thumbs[:, 3:]
        colour = thumbs[:, :3] * alpha
        gaps = [
            (colour - alpha * torch.tensor(c).view(1, 3, 1, 1)).abs().mean(1).sum((1, 2))
            for c in COLOURS.values()
        ]
        return (torch.stack(gaps, 1) / alpha.sum((1, 2, 3))[:, None]).numpy()


def _pairs(many: int) -> list[tuple[int, ...]]:
    return [(a, b) for a in range(many) for b in range(a + 1, many)]


def _arrange(many: int, rng: np.random.Generator) -> tuple[list[int], list[float], list[tuple[float, float]]]:
    """Sizes, scales and centres; the squares hardly overlap and lie inside the canvas."""
    sizes = rng.integers(0, len(SCALES), many)
    for _ in range(1000):
        scales = np.array([rng.uniform(*SCALES[size]) for size in sizes])
        centres = _centres(scales, rng) if (scales**2).sum() <= FILL else None
        if centres is not None:
            return sizes.tolist(), scales.tolist(), [(float(x), float(y)) for x, y in centres]
        # Too full: the largest object becomes one size smaller, if it can.
        sizes[sizes.argmax()] = max(0, sizes.max() - 1)
    raise RuntimeError(f"no room for {many} objects")


def _centres(scales: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """[k, 2], the largest object first placed; None where one finds no room."""
    centres = np.full((len(scales), 2), np.nan)
    done: list[int] = []
    for i in np.argsort(-scales):
        room = (1 - scales[i]) / 2
        tries = rng.uniform(-room, room, (60, 2))
        free = (np.abs(np.abs(tries) - THIRD) >= CLEAR).all(1)
        gaps = np.abs(tries[:, None] - centres[done]).max(2)
        free &= (gaps >= TOUCH * (scales[i] + scales[done]) / 2).all(1)
        if not free.any():
            return None
        centres[i] = tries[free.argmax()]
        done.append(int(i))
    return centres
