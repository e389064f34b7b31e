"""Pictograms: everyday things as five vendors drew them, composed over procedural backgrounds.

The unit of every split is the drawing (concept x domain); an image is a render of it. Sprites, names and split files
ship with the package, with the licences of their makers (see NOTICE).
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
from ...core.types import FixedSplits, MaskedImage, MaskedSource, Preprocess, Stage
from ..splits import load_fixed_splits
from .compose import Background, Clutter, Rendered, Scene, draw_placement, place_masks, render

FOLDER = Path(__file__).resolve().parents[2] / "assets" / "pictograms"
SIZE = 64  # pixels a side of a composed image

# How often a background family is drawn; stripes and clutter are unseen in the pocket model's pre-training.
FAMILY_SHARES = {"flat": 0.25, "gradient": 0.25, "noise": 0.2, "stripes": 0.15, "clutter": 0.15}
SCALES = (0.5, 0.95)  # side of the drawing over the side of the image
ANGLE = 12.0  # degrees, either way
# Numbers of the background instances of each stage: what is tested on was never trained on.
INSTANCES = {"train": range(0, 4000), "validation": range(4000, 5000), "test": range(5000, 6000)}
CUES = range(6000, 6200)  # one background for each subgroup, for `background_bias`
VIEWS = {"train": 1, "validation": 2, "test": 4}

BackgroundMode = Literal["random", "aligned", "conflicting"]


class Pictograms(MaskedSource):
    """The data set as a `Source`: one row per drawing, domain by domain, concepts in the order of `class_names`.

    Drawings are never mirrored: that would show other things (letters, clocks, musical notes).

    Args:
        background_bias: in training, the probability that a drawing stands before the background assigned to its
            concept's subgroup (a spurious cue).
        backgrounds: at evaluation, "random", the subgroup's own cue ("aligned") or another subgroup's
            ("conflicting"). The reliance on the cue is aligned minus conflicting accuracy.

    Raises:
        UserError: an option out of range.
    """

    name = "pictograms"
    templates: tuple[str, ...] = ("a photo of a {}.",)
    size = SIZE

    def __init__(self, background_bias: float = 0.0, backgrounds: BackgroundMode = "random") -> None:
        if not 0 <= background_bias <= 1:
            raise UserError(f"background_bias: {background_bias} is not in [0, 1]")
        if backgrounds not in ("random", "aligned", "conflicting"):
            raise UserError(f"backgrounds: {backgrounds!r} is not random, aligned or conflicting")
        self.background_bias, self.backgrounds = background_bias, backgrounds
        self.index = json.loads((FOLDER / "index.json").read_text(encoding="utf-8"))
        concepts, domains = self.index["concepts"], self.index["domains"]
        self.class_names: tuple[str, ...] = tuple(concept["label"] for concept in concepts)
        self.domain_names: tuple[str, ...] = tuple(domain["id"] for domain in domains)
        self.labels = np.tile(np.arange(len(concepts)), len(domains))
        self.domains = np.repeat(np.arange(len(domains)), len(concepts))
        ids = [concept["id"] for concept in concepts]
        path = FOLDER / "splits.json"
        self.splits: FixedSplits = load_fixed_splits(path, ids, self.domain_names, self.labels, self.domains)
        self.subgroups: tuple[str, ...] = tuple(dict.fromkeys(concept["subgroup"] for concept in concepts))
        self._subgroup = np.array([self.subgroups.index(concept["subgroup"]) for concept in concepts])
        self._monotone = np.array([domain["monotone"] for domain in domains])

    @cached_property
    def sprites(self) -> Tensor:
        """[rows, 4, 128, 128] uint8, straight alpha."""
        size, columns = self.index["sprite_size"], self.index["columns"]
        cells = [
            _cells(FOLDER / f"{domain}.webp", size, columns, len(self.class_names))
            for domain in self.domain_names
        ]
        return torch.cat(cells)

    @cached_property
    def clutter(self) -> dict[Stage, Clutter]:
        """Small foreign drawings: one half for training, the other for both kinds of evaluation."""
        spec = self.index["clutter"]
        cells = _cells(FOLDER / "clutter.webp", spec["size"], spec["columns"], len(spec["names"]))
        half = len(cells) // 2
        unseen = Clutter(cells[half:])
        return {"train": Clutter(cells[:half]), "validation": unseen, "test": unseen}

    @cached_property
    def _silhouettes(self) -> Tensor:
        filled = [binary_fill_holes(alpha > 64) for alpha in self.sprites[:, 3].numpy()]
        return torch.from_numpy(np.stack(filled)).float()

    def views(self, stage: Stage) -> int:
        """Fixed renders per drawing: 2 for validation, 4 for test."""
        return VIEWS[stage]

    def images(
        self, rows: np.ndarray, stage: Stage, draws: np.ndarray, seed: int, preprocess: Preprocess
    ) -> Tensor:
        """Renders rows (see `Source.images`), enlarged where a backbone wants more than 64 pixels."""
        return preprocess.fit(self._render(self._scenes(rows, stage, draws, seed), stage).images)

    def sample(self, row: int, stage: Stage = "test", draw: int = 0, seed: int = 0) -> MaskedImage:
        """One image with its exact masks; the same pixels as `images` gives before normalising."""
        scenes = self._scenes(np.array([row]), stage, np.array([draw]), seed)
        rendered = self._render(scenes, stage)
        silhouette = place_masks(scenes, self._silhouettes, SIZE)[0]
        # A pixel that the drawing's rim covers in part stays covered in part: never less than its ink.
        silhouette = torch.maximum(silhouette, rendered.alpha[0])
        return MaskedImage(
            rendered.images[0], int(self.labels[row]), int(self.domains[row]), rendered.alpha[0], silhouette
        )

    def fingerprint(self) -> str:
        """Hash of the shipped art and of the composition's settings."""
        settings = [self.background_bias, self.backgrounds, FAMILY_SHARES, SCALES, ANGLE, SIZE]
        text = json.dumps([[sprite["sha256"] for sprite in self.index["sprites"]], settings], default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def _render(self, scenes: list[Scene], stage: Stage) -> Rendered:
        return render(scenes, self.sprites, SIZE, self.clutter[stage])

    def _scenes(self, rows: np.ndarray, stage: Stage, draws: np.ndarray, seed: int) -> list[Scene]:
        return [self._scene(int(row), stage, int(draw), seed) for row, draw in zip(rows, draws, strict=True)]

    def _scene(self, row: int, stage: Stage, draw: int, seed: int) -> Scene:
        """All that is random in an image, from a generator of its own."""
        number = ("train", "validation", "test").index(stage)
        # Evaluation renders are part of the benchmark: no seed of a run moves them.
        rng = np.random.default_rng([number, seed if stage == "train" else 0, draw, row])
        scale, x, y, angle = draw_placement(rng, SCALES, ANGLE)
        ink = tuple(rng.uniform(0, 1, 3).tolist()) if self._monotone[self.domains[row]] else None
        background = self._background(self._subgroup[self.labels[row]], stage, rng)
        return Scene(row, scale, x, y, angle, background, ink)

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
    """The background that stands for a subgroup."""
    return Background(("noise", "gradient", "stripes", "flat")[subgroup % 4], CUES[subgroup])


def _cells(path: Path, size: int, columns: int, count: int) -> Tensor:
    """Cuts a sheet into [count, 4, size, size] uint8."""
    sheet = torch.from_numpy(np.asarray(Image.open(path).convert("RGBA")).copy())
    cells = sheet.view(sheet.shape[0] // size, size, columns, size, 4).permute(0, 2, 4, 1, 3)
    return cells.reshape(-1, 4, size, size)[:count].contiguous()
