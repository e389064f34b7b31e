"""Pictograms: everyday objects as five vendors drew them, composed over procedural backgrounds.

A row is a drawing (class x domain), and a view is a rendering of it. Sprites, names and split files ship with the
package, with the licences of their makers (see NOTICE).
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import binary_fill_holes
from torch import Tensor

from ...core.errors import UserError
from ...core.masked_source import MaskedImage, MaskedSource
from ...core.types import FixedSplits, Preprocess, Stage
from ..request import SHIPPED, NamedSource
from ..splits import load_fixed_splits
from .compose import Background, Clutter, Other, Rendered, Scene, draw_placement, place_masks, render

FOLDER = Path(__file__).resolve().parents[2] / "assets" / "pictograms"
SIZE = 64  # side of a rendered image in pixels

# Probability of each background family. The pocket backbone saw no stripes and no clutter in pre-training.
FAMILY_SHARES = {"flat": 0.25, "gradient": 0.25, "noise": 0.2, "stripes": 0.15, "clutter": 0.15}
SCALES = (0.5, 0.95)  # side of the drawing relative to the image
# The same in scenes, where the named object is small and stands among larger ones.
SCENE_SCALES = (0.25, 0.45)
OTHER_SCALES = (0.3, 0.6)
OTHERS = (2, 4)  # fewest and most other drawings in a scene
OVERLAP = 0.15  # largest share of the named drawing's square that another drawing's square may share
ANGLE = 12.0  # largest rotation in degrees, in both directions
# Background instances of each stage, disjoint: no test background is ever seen in training.
INSTANCES = {"train": range(0, 4000), "validation": range(4000, 5000), "test": range(5000, 6000)}
CUES = range(6000, 6200)  # one background per subgroup, for `background_bias`
CUE_FAMILIES = ("noise", "gradient", "stripes", "flat")
VIEWS = {"train": 1, "validation": 2, "test": 4}

BackgroundMode = Literal["random", "aligned", "conflicting"]
Rendering = Literal["object", "scenes"]


class Pictograms(MaskedSource):
    """The Pictograms data set: rows are ordered by domain, then as `class_names`.

    Drawings are never mirrored, since that changes the meaning of letters, clocks and musical notes.

    Args:
        background_bias: probability, in training, that a drawing is shown over the background assigned to its class's
            subgroup (a spurious cue).
        backgrounds: backgrounds at evaluation: "random", the subgroup's cue ("aligned") or another subgroup's cue
            ("conflicting"). Accuracy on aligned minus conflicting backgrounds measures reliance on the cue.
        rendering: "object" shows one drawing that fills most of the image; "scenes" shows it small, among two to four
            larger drawings of things that are no class. Masks show the named drawing in both.

    Raises:
        UserError: an option out of range.
    """

    name = "pictograms"
    templates = ("a photo of a {}.",)
    size = SIZE

    def __init__(
        self,
        background_bias: float = 0.0,
        backgrounds: BackgroundMode = "random",
        rendering: Rendering = "object",
    ) -> None:
        if not isinstance(background_bias, int | float) or not 0 <= background_bias <= 1:
            raise UserError(f"--data-options: background_bias={background_bias} is not in [0, 1]")
        if backgrounds not in ("random", "aligned", "conflicting"):
            raise UserError(
                f"--data-options: backgrounds={backgrounds} is not random, aligned or conflicting"
            )
        if rendering not in ("object", "scenes"):
            raise UserError(f"--data-options: rendering={rendering} is not object or scenes")
        self.background_bias, self.backgrounds, self.rendering = background_bias, backgrounds, rendering
        self.index = json.loads((FOLDER / "index.json").read_text(encoding="utf-8"))
        concepts, domains = self.index["concepts"], self.index["domains"]
        self.class_names = tuple(concept["label"] for concept in concepts)
        self.domain_names = tuple(domain["id"] for domain in domains)
        self.class_groups = tuple((concept["subgroup"], concept["group"]) for concept in concepts)
        self.labels = np.tile(np.arange(len(concepts)), len(domains))  # [N]
        self.domains = np.repeat(np.arange(len(domains)), len(concepts))  # [N]
        ids = [concept["id"] for concept in concepts]
        path = FOLDER / "splits.json"
        self.splits: FixedSplits = load_fixed_splits(path, ids, self.domain_names, self.labels, self.domains)
        self.subgroups: tuple[str, ...] = tuple(dict.fromkeys(concept["subgroup"] for concept in concepts))
        self._subgroup = np.array([self.subgroups.index(concept["subgroup"]) for concept in concepts])  # [C]
        self._monochrome = np.array([domain["monotone"] for domain in domains])  # [domains] bool

    @cached_property
    def sprites(self) -> Tensor:
        """All drawings: [N, 4, 128, 128] uint8, straight alpha."""
        size, columns = self.index["sprite_size"], self.index["columns"]
        cells = [
            _cut_cells(FOLDER / f"{domain}.webp", size, columns, len(self.class_names))
            for domain in self.domain_names
        ]
        return torch.cat(cells)

    @cached_property
    def clutter(self) -> dict[Stage, Clutter]:
        """Small drawings of other objects: half of them for training, the others for evaluation."""
        spec = self.index["clutter"]
        cells = _cut_cells(FOLDER / "clutter.webp", spec["size"], spec["columns"], len(spec["names"]))
        half = len(cells) // 2
        unseen = Clutter(cells[half:])
        return {"train": Clutter(cells[:half]), "validation": unseen, "test": unseen}

    @cached_property
    def _silhouettes(self) -> Tensor:
        filled = [binary_fill_holes(alpha > 64) for alpha in self.sprites[:, 3].numpy()]
        return torch.from_numpy(np.stack(filled)).float()  # [N, 128, 128]

    def views(self, stage: Stage) -> int:
        """Return the number of fixed renderings per drawing: 2 for validation, 4 for test."""
        return VIEWS[stage]

    def images(
        self, rows: np.ndarray, stage: Stage, draws: np.ndarray, seed: int, preprocess: Preprocess
    ) -> Tensor:
        """Render rows at 64 x 64 pixels and resize them to `preprocess.size`; see `Source.images`."""
        return preprocess.fit(self._render(self._scenes(rows, stage, draws, seed), stage).images)

    def sample(self, row: int, stage: Stage = "test", draw: int = 0, seed: int = 0) -> MaskedImage:
        """Return one image with its masks: the pixels that `images` resizes and normalises."""
        scenes = self._scenes(np.array([row]), stage, np.array([draw]), seed)
        rendered = self._render(scenes, stage)
        image, alpha = rendered.images[0], rendered.alpha[0]  # [3, S, S], [S, S]
        silhouette = place_masks(scenes, self._silhouettes, SIZE)[0]  # [S, S]
        # Pixels that the edge of the drawing covers in part have at least their share of ink.
        silhouette = torch.maximum(silhouette, alpha)
        return MaskedImage(image, int(self.labels[row]), int(self.domains[row]), alpha, silhouette)

    def fingerprint(self) -> str:
        """Return a hash of the shipped drawings and of the settings of the composition."""
        settings: list[object] = [self.background_bias, self.backgrounds, FAMILY_SHARES, SCALES, ANGLE, SIZE]
        if self.rendering == "scenes":
            settings += [SCENE_SCALES, OTHER_SCALES, OTHERS, OVERLAP]
        text = json.dumps([[sprite["sha256"] for sprite in self.index["sprites"]], settings], default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def _render(self, scenes: list[Scene], stage: Stage) -> Rendered:
        return render(scenes, self.sprites, SIZE, self.clutter[stage])

    def _scenes(self, rows: np.ndarray, stage: Stage, draws: np.ndarray, seed: int) -> list[Scene]:
        return [self._scene(int(row), stage, int(draw), seed) for row, draw in zip(rows, draws, strict=True)]

    def _scene(self, row: int, stage: Stage, draw: int, seed: int) -> Scene:
        """Draw all random properties of an image from one generator."""
        number = ("train", "validation", "test").index(stage)
        # Evaluation images are part of the benchmark, so the seed of a run does not change them.
        rng = np.random.default_rng([number, seed if stage == "train" else 0, draw, row])
        scenes = self.rendering == "scenes"
        scale, x, y, angle = draw_placement(rng, SCENE_SCALES if scenes else SCALES, ANGLE)
        ink = tuple(rng.uniform(0, 1, 3).tolist()) if self._monochrome[self.domains[row]] else None
        background = self._background(self._subgroup[self.labels[row]], stage, rng)
        others = _others(rng, (scale, x, y), len(self.clutter[stage].drawings)) if scenes else ()
        return Scene(row, scale, x, y, angle, background, ink, others)

    def _background(self, subgroup: int, stage: Stage, rng: np.random.Generator) -> Background:
        biased, other = rng.random() < self.background_bias, int(rng.integers(1, len(self.subgroups)))
        family = str(rng.choice(list(FAMILY_SHARES), p=list(FAMILY_SHARES.values())))
        instance = INSTANCES[stage][int(rng.integers(len(INSTANCES[stage])))]
        if stage == "train":
            return _cue(subgroup) if biased else Background(family, instance)
        if self.backgrounds == "aligned":
            return _cue(subgroup)
        if self.backgrounds == "conflicting":
            return _cue((subgroup + other) % len(self.subgroups))
        return Background(family, instance)


def _cue(subgroup: int) -> Background:
    """Return the background assigned to a subgroup."""
    return Background(CUE_FAMILIES[subgroup % len(CUE_FAMILIES)], CUES[subgroup])


def _others(rng: np.random.Generator, named: tuple[float, float, float], drawings: int) -> tuple[Other, ...]:
    """Place other drawings such that each covers little of the named one; the smallest is in front."""
    placed = []
    for size in sorted(rng.uniform(*OTHER_SCALES, int(rng.integers(OTHERS[0], OTHERS[1] + 1))), reverse=True):
        drawing, angle = int(rng.integers(drawings)), float(rng.uniform(-ANGLE, ANGLE))
        for _ in range(20):
            x, y = rng.uniform(-0.5 + size / 3, 0.5 - size / 3, 2).tolist()
            if _shared(named, (float(size), x, y)) <= OVERLAP:
                placed.append(Other(drawing, float(size), x, y, angle))
                break
    return tuple(placed)


def _shared(named: tuple[float, float, float], other: tuple[float, float, float]) -> float:
    """Return the share of the first square (scale, x, y) that the second one covers."""
    (a, ax, ay), (b, bx, by) = named, other
    width = min(ax + a / 2, bx + b / 2) - max(ax - a / 2, bx - b / 2)
    height = min(ay + a / 2, by + b / 2) - max(ay - a / 2, by - b / 2)
    return max(0.0, width) * max(0.0, height) / a**2


def _cut_cells(path: Path, size: int, columns: int, count: int) -> Tensor:
    """Cut a sprite sheet into its cells, [count, 4, size, size] uint8."""
    pixels = np.asarray(Image.open(path).convert("RGBA"))  # [rows * size, columns * size, 4]
    cells = torch.from_numpy(pixels.copy()).view(-1, size, columns, size, 4)  # [rows, size, columns, size, 4]
    cells = cells.permute(0, 2, 4, 1, 3)  # [rows, columns, 4, size, size]
    return cells.reshape(-1, 4, size, size)[:count].contiguous()  # [count, 4, size, size]


PICTOGRAMS = NamedSource(
    "everyday objects as five vendors drew them, composed over backgrounds (built in)",
    lambda request: Pictograms(**request.settings),
    title="pictograms",
    licence=SHIPPED,
    settings=("background_bias", "backgrounds", "rendering"),
)
