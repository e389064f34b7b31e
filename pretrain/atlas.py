"""The pre-training drawings: pixels, names, and how they are sampled."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import binary_fill_holes
from torch import Tensor

# Excluded from training; the checkpoint is chosen on this set, never on the benchmark.
KEPT_OUT = "streamline-emojis"
# Colour art is rarer than line art, yet four of the five benchmark domains are in colour.
COLOUR_WEIGHT = 3.0
CONCEPT_SHARE = 0.7
SYNONYM_SHARE = 0.35


@dataclass
class Atlas:
    """Drawings in memory-mapped arrays, with names.

    Attributes:
        sprites: [N, 64, 64, 4] uint8, straight alpha.
        bodies: [N, 64, 64] uint8, silhouettes with holes filled.
        keys: Concept or words of each drawing. Drawings with equal keys are positives of each other.
        colour: [N] bool, whether the drawing has its own colours.
        synonyms: Concept to alternative names.
        sets: [N] icon set of each drawing.
    """

    sprites: np.ndarray
    bodies: np.ndarray
    keys: list[str]
    colour: np.ndarray
    synonyms: dict[str, list[str]]
    sets: list[str]
    by_concept: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    others: dict[str, list[int]] = field(default_factory=dict)
    kept_out: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    concepts: list[str] = field(default_factory=list)
    concept_index: dict[str, int] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> Atlas:
        """Load the files that `tools/build_pretraining_art.py` writes.

        Raises:
            FileNotFoundError: The art is missing; the message gives the command that builds it.
        """
        if not (folder / "table.json").exists():
            raise FileNotFoundError(
                f"{folder}: no art; build it with: python tools/build_pretraining_art.py --out {folder}"
            )
        table = json.loads((folder / "table.json").read_text())
        rows = table["rows"]
        sprites = np.load(folder / "sprites.npy", mmap_mode="r")
        atlas = cls(
            sprites=sprites,
            bodies=_bodies(folder / "bodies.npy", sprites),
            keys=[row["concept"] or row["words"] for row in rows],
            colour=np.array([row["colour"] for row in rows]),
            synonyms=table["synonyms"],
            sets=[row["set"] for row in rows],
        )
        by_concept: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        others: dict[str, list[int]] = defaultdict(list)
        for i, row in enumerate(rows):
            if row["set"] == KEPT_OUT:
                atlas.kept_out.append(i)
            elif row["concept"]:
                by_concept[row["concept"]][row["set"]].append(i)
            else:
                others[row["set"]].append(i)
        atlas.by_concept = {concept: dict(sets) for concept, sets in by_concept.items()}
        atlas.others = dict(others)
        atlas.concepts = list(atlas.by_concept)
        atlas.concept_index = {concept: i for i, concept in enumerate(atlas.concepts)}
        atlas.names = sorted({key for i, key in enumerate(atlas.keys) if rows[i]["set"] != KEPT_OUT})
        atlas._weigh()
        return atlas

    def _weigh(self) -> None:
        """Cache the sampling weights of each concept's sets, which every draw needs."""
        self._choices: dict[str | None, tuple[list[list[int]], np.ndarray]] = {}
        for concept, sets in [*self.by_concept.items(), (None, self.others)]:
            members = list(sets.values())
            weights = np.array([COLOUR_WEIGHT if self.colour[rows[0]] else 1.0 for rows in members])
            if concept is None:  # large sets of other things get more draws than small ones
                weights = weights * np.sqrt([len(rows) for rows in members])
            self._choices[concept] = (members, np.cumsum(weights / weights.sum()))

    def sample(self, rng: np.random.Generator) -> int:
        """Return one drawing: usually a uniform concept, then a set, then one of its drawings."""
        concept = None
        if rng.random() < CONCEPT_SHARE:
            concept = self.concepts[int(rng.integers(len(self.concepts)))]
        members, cumulative = self._choices[concept]
        rows = members[min(int(np.searchsorted(cumulative, rng.random())), len(members) - 1)]
        return rows[int(rng.integers(len(rows)))]

    def name(self, key: str, rng: np.random.Generator) -> str:
        """Return the label of a key, or at times one of its synonyms."""
        names = self.synonyms.get(key)
        if names and rng.random() < SYNONYM_SHARE:
            return names[int(rng.integers(len(names)))]
        return key

    def pixels(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return drawings [n, 4, 64, 64] and filled silhouettes [n, 1, 64, 64], float32 in [0, 1]."""
        sprites = torch.from_numpy(np.stack([self.sprites[i] for i in rows])).permute(
            0, 3, 1, 2
        )  # [n, 4, s, s]
        bodies = torch.from_numpy(np.stack([self.bodies[i] for i in rows])).unsqueeze(1)  # [n, 1, s, s]
        return sprites.float() / 255, bodies.float()

    def tensor(self, rows: list[int]) -> Tensor:
        """Return drawings as [n, 4, 64, 64] uint8."""
        return torch.from_numpy(np.stack([self.sprites[i] for i in rows])).permute(0, 3, 1, 2).contiguous()


def _bodies(path: Path, sprites: np.ndarray) -> np.ndarray:
    """Load filled silhouettes, computing and storing them on first use (about a minute)."""
    if not path.exists():
        bodies = np.stack([binary_fill_holes(sprite[..., 3] > 76) for sprite in sprites]).astype(np.uint8)
        np.save(path, bodies)
    return np.load(path, mmap_mode="r")
