"""The pre-training drawings, how they are sampled, and what is said of them."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

# Set kept out of training: the checkpoint is chosen on it, never on the benchmark.
KEPT_OUT = "streamline-emojis"
# Colour art is rarer than line art, yet four of five benchmark domains are in colour.
COLOUR_WEIGHT = 3.0
CONCEPT_SHARE = 0.7

TEMPLATES = (
    "a photo of a {}.",
    "a photo of a {}.",
    "{}",
    "a {}",
    "the {}.",
    "a picture of a {}.",
    "a drawing of a {}.",
    "an icon of a {}.",
    "an image of a {}.",
    "this is a {}.",
)


@dataclass
class Art:
    """Drawings in memory-mapped form with their names.

    Attributes:
        sprites: [N, 64, 64, 4] uint8.
        keys: name of what each drawing shows; equal keys are positives of each other.
        colour: [N] bool, whether it brings its own colours.
        synonyms: concept -> names.
        sets: [N] set of each drawing.
    """

    sprites: np.ndarray
    keys: list[str]
    colour: np.ndarray
    synonyms: dict[str, list[str]]
    sets: list[str]
    by_concept: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    others: dict[str, list[int]] = field(default_factory=dict)
    kept_out: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    concepts: list[str] = field(default_factory=list)
    number: dict[str, int] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> Art:
        """Reads what `tools/build_pretraining_art.py` wrote.

        Raises:
            FileNotFoundError: with the command that makes the art.
        """
        if not (folder / "table.json").exists():
            raise FileNotFoundError(
                f"{folder}: no art; make it with: python tools/build_pretraining_art.py --out {folder}"
            )
        table = json.loads((folder / "table.json").read_text())
        rows = table["rows"]
        art = cls(
            sprites=np.load(folder / "sprites.npy", mmap_mode="r"),
            keys=[row["concept"] or row["words"] for row in rows],
            colour=np.array([row["colour"] for row in rows]),
            synonyms=table["synonyms"],
            sets=[row["set"] for row in rows],
        )
        by_concept: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        others: dict[str, list[int]] = defaultdict(list)
        for i, row in enumerate(rows):
            if row["set"] == KEPT_OUT:
                art.kept_out.append(i)
            elif row["concept"]:
                by_concept[row["concept"]][row["set"]].append(i)
            else:
                others[row["set"]].append(i)
        art.by_concept = {concept: dict(sets) for concept, sets in by_concept.items()}
        art.others = dict(others)
        art.concepts = list(art.by_concept)
        art.number = {concept: i for i, concept in enumerate(art.concepts)}
        art.names = sorted({key for i, key in enumerate(art.keys) if rows[i]["set"] != KEPT_OUT})
        return art

    def sample(self, rng: np.random.Generator) -> int:
        """One drawing: mostly a concept drawn evenly, then an artist, then one of the artist's drawings of it."""
        if rng.random() < CONCEPT_SHARE:
            sets = self.by_concept[self.concepts[int(rng.integers(len(self.concepts)))]]
        else:
            sets = self.others
        names = list(sets)
        weights = np.array([COLOUR_WEIGHT if self.colour[sets[name][0]] else 1.0 for name in names])
        if sets is self.others:  # a set of a thousand things is worth more draws than one of five
            weights = weights * np.sqrt([len(sets[name]) for name in names])
        chosen = sets[names[int(rng.choice(len(names), p=weights / weights.sum()))]]
        return chosen[int(rng.integers(len(chosen)))]

    def say(self, key: str, rng: np.random.Generator) -> str:
        """A name for what a key stands for: the label, or a synonym."""
        names = self.synonyms.get(key)
        if names and rng.random() < 0.35:
            return names[int(rng.integers(len(names)))]
        return key

    def tensor(self, indices: list[int]) -> Tensor:
        """[len(indices), 4, 64, 64] uint8."""
        return torch.from_numpy(np.stack([self.sprites[i] for i in indices])).permute(0, 3, 1, 2).contiguous()


def caption(name: str, rng: np.random.Generator) -> str:
    """A sentence about a name."""
    return TEMPLATES[int(rng.integers(len(TEMPLATES)))].format(name)
