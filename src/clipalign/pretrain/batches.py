"""One pre-training batch as a function of (seed, step): images, captions, and which caption is true of which image."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..data.builtin.compose import Background, Scene, draw_placement, render
from .art import Art, caption
from .config import hardness
from .restyle import restyle_colour, restyle_monotone, side_by_side

SIZE = 64
PAIRS = 0.08  # share of pictures with two things
BY_GROUP = 0.25  # share of backgrounds that come with the concept, as in photographs from the web
# Instances of backgrounds used here; the benchmark's have other numbers.
POOL = range(1_000_000, 1_002_500)


@dataclass(frozen=True)
class PretrainingBatch:
    """Pictures and what is said of them.

    Attributes:
        images: [B, 3, 64, 64] in [0, 1].
        texts: T texts; the first B are the images' own captions, duplicates included, the rest other names.
        relation: [B, T] int8: 1 where the text is true of the image, 0 where not, -1 half true (left out).
        concepts: [B] number of the concept shown, -1 where it is none or there are two things.
    """

    images: Tensor
    texts: list[str]
    relation: Tensor
    concepts: Tensor


class Batches(Dataset):
    """Steps of pre-training; item `t` depends on the seed and t alone."""

    def __init__(self, art: Art, batch_size: int, other_names: int, seed: int, total_steps: int) -> None:
        self.art, self.batch_size, self.other_names = art, batch_size, other_names
        self.seed, self.total_steps = seed, total_steps

    def __len__(self) -> int:
        return self.total_steps

    def __getitem__(self, step: int) -> PretrainingBatch:
        level = hardness(step, self.total_steps)
        pictures, scenes, texts, keys = [], [], [], []
        for position in range(self.batch_size):
            rng = np.random.default_rng([self.seed, step, position])
            picture, text, key = self._drawing(rng, level)
            keys.append(key)
            texts.append(text)
            scenes.append(_scene(position, key[0], rng, level))
            pictures.append(picture)
        sprites = (torch.stack(pictures) * 255).round().to(torch.uint8)
        images = render(scenes, sprites, SIZE, oversample=1).images
        rng = np.random.default_rng([self.seed, step])
        text_keys = list(keys)
        for i in rng.integers(0, len(self.art.names), self.other_names):
            texts.append(self._caption(self.art.say(self.art.names[i], rng), rng, level))
            text_keys.append((self.art.names[i],))
        numbers = [self.art.number.get(key[0], -1) if len(key) == 1 else -1 for key in keys]
        return PretrainingBatch(images, texts, _relation(keys, text_keys), torch.tensor(numbers))

    def _caption(self, name: str, rng: np.random.Generator, level: float) -> str:
        """Bare names first: templates are learned once names are."""
        return name if rng.random() < 0.8 - level else caption(name, rng)

    def _drawing(self, rng: np.random.Generator, level: float) -> tuple[Tensor, str, tuple[str, ...]]:
        index = self.art.sample(rng)
        picture, text = self._styled(index, rng)
        key: tuple[str, ...] = (self.art.keys[index],)
        if rng.random() < PAIRS:
            other = self.art.sample(rng)
            second, second_text = self._styled(other, rng)
            picture = side_by_side(picture, second, rng)
            return picture, f"a {text} and a {second_text}", (key[0], self.art.keys[other])
        return picture, self._caption(text, rng, level), key

    def _styled(self, index: int, rng: np.random.Generator) -> tuple[Tensor, str]:
        sprite = torch.from_numpy(np.array(self.art.sprites[index])).permute(2, 0, 1).float() / 255
        restyle = restyle_colour if self.art.colour[index] else restyle_monotone
        picture, ink = restyle(sprite, rng)
        name = self.art.say(self.art.keys[index], rng)
        return picture, f"{ink} {name}" if ink and rng.random() < 0.3 else name


def _relation(images: list[tuple[str, ...]], texts: list[tuple[str, ...]]) -> Tensor:
    """[B, T]: 1 where both name the same things, -1 where they share one thing of two, else 0."""
    numbers: dict[str, int] = {}
    for key in (*images, *texts):
        for name in key:
            numbers.setdefault(name, len(numbers))

    def table(keys: list[tuple[str, ...]]) -> np.ndarray:
        rows = np.zeros((len(keys), len(numbers)), np.float32)
        for i, key in enumerate(keys):
            rows[i, [numbers[name] for name in key]] = 1
        return rows

    left, right = table(images), table(texts)
    common = left @ right.T
    union = left.sum(1)[:, None] + right.sum(1)[None] - common
    relation = np.where(common == union, 1, np.where(common > 0, -1, 0))
    return torch.from_numpy(relation.astype(np.int8))


def _scene(position: int, key: str, rng: np.random.Generator, level: float) -> Scene:
    """Easy pictures first (large, upright, on flat ground), at the end those of the benchmark's kind."""
    low, angle = 0.8 - 0.3 * level, 3 + 9 * level
    scale, x, y, turn = draw_placement(rng, (low, 1.0), angle)
    family = ("flat", "gradient", "noise")[int(rng.choice(3, p=_shares(level)))]
    if rng.random() < BY_GROUP:
        family = ("flat", "gradient", "noise")[zlib.crc32(key.encode()) % 3]
        instance = POOL[zlib.crc32(key.encode()) % 64 * 8 + int(rng.integers(8))]
    else:
        instance = POOL[int(rng.integers(len(POOL)))]
    return Scene(position, scale, x, y, turn, Background(family, instance))


def _shares(level: float) -> tuple[float, float, float]:
    """How often the background is flat, a gradient, noise."""
    return (0.8 - 0.4 * level, 0.1 + 0.2 * level, 0.1 + 0.2 * level)
