"""One pre-training batch as a function of (seed, step)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from . import layout
from .atlas import Atlas
from .captions import Caption, Thing, contradict, truth, write
from .config import PretrainConfig, hardness
from .layout import Placed
from .render import render
from .restyle import restyle

GRID = 12  # patches per side
NAMED = 0.5  # smallest visible share of a drawing that captions mention
MANY = 4  # images with more named drawings are exempt from matching each bare name


@dataclass(frozen=True)
class Batch:
    """Scenes, their captions, and their regions.

    Attributes:
        images: [B, 3, S, S] in [0, 1].
        captions: Token ids [T, L]; the first B captions belong to the images, the rest are hard negatives.
        names: Token ids [U, L] of the bare names of regions.
        caption_truth: [B, T] int8: 1 true, 0 false, -1 unknown.
        name_truth: [B, U] int8, the same for bare names.
        region_image: [R] image of each region.
        region_mask: [R, M] visible coverage of each patch, in [0, 1].
        region_truth: [R, U] int8, which names are true of the region's drawing.
        region_name: [R] index of the name used for the region.
        region_concept: [R] concept index, -1 if the drawing shows no concept.
        image_concept: [B] the same for images of one drawing, else -1.
    """

    images: Tensor
    captions: Tensor
    names: Tensor
    caption_truth: Tensor
    name_truth: Tensor
    region_image: Tensor
    region_mask: Tensor
    region_truth: Tensor
    region_name: Tensor
    region_concept: Tensor
    image_concept: Tensor

    def to(self, device: torch.device) -> Batch:
        """Return the batch on another device."""
        return Batch(**{name: value.to(device, non_blocking=True) for name, value in vars(self).items()})


class Batches(Dataset[Batch]):
    """Steps of pre-training. Item `t` depends on the seed and on t only.

    Args:
        atlas: Drawings.
        config: Batch size, curriculum and seed.
        tokenize: Texts to token ids [n, 77].
        device: Where scenes are composed; workers need the CPU.
    """

    def __init__(
        self,
        atlas: Atlas,
        config: PretrainConfig,
        tokenize: Callable[[list[str]], Tensor],
        device: torch.device | str = "cpu",
    ) -> None:
        self.atlas, self.config, self.tokenize = atlas, config, tokenize
        self.device = torch.device(device)

    def __len__(self) -> int:
        return self.config.steps

    def __getitem__(self, step: int) -> Batch:
        rng = np.random.default_rng([self.config.seed, step])
        level = hardness(step, self.config)
        placed, backgrounds = self._place(rng, level)
        rows = np.array([p.sprite for p in placed])
        sprites, bodies = self.atlas.pixels(rows)
        pixels, inks = restyle(sprites.to(self.device), bodies.to(self.device), self.atlas.colour[rows], rng)
        images, visible, share = render(pixels, placed, backgrounds)
        masks = F.adaptive_avg_pool2d(visible.unsqueeze(1), GRID).flatten(1)  # [n, M]
        return self._describe(images, masks, share.cpu().numpy(), placed, inks, rng, level)

    def _place(self, rng: np.random.Generator, level: float) -> tuple[list[Placed], list[layout.Background]]:
        turn = np.deg2rad(3 + 9 * level)
        placed, backgrounds = [], []
        for image in range(self.config.batch_size):
            for named, where in ((False, layout.clutter(rng, level)), (True, layout.positions(rng, level))):
                for scale, x, y in where:
                    angle = float(rng.uniform(-turn, turn))
                    placed.append(Placed(image, self.atlas.sample(rng), scale, x, y, angle, named))
            backgrounds.append(layout.background(rng, self.atlas.keys[placed[-1].sprite], level))
        return placed, backgrounds

    def _describe(
        self,
        images: Tensor,
        masks: Tensor,
        share: np.ndarray,
        placed: list[Placed],
        inks: list[str | None],
        rng: np.random.Generator,
        level: float,
    ) -> Batch:
        """Write captions and name regions."""
        things: list[list[Thing]] = [[] for _ in range(len(images))]
        hidden: list[set[str]] = [set() for _ in range(len(images))]
        regions: list[int] = []
        names: dict[tuple[str, str], int] = {}  # (key, name) to column
        region_name = []
        for i, p in enumerate(placed):
            key = self.atlas.keys[p.sprite]
            if not p.named or share[i] < NAMED:
                hidden[p.image].add(key)
                continue
            name = self.atlas.name(key, rng)
            ink = inks[i]
            phrase = f"{ink} {name}" if ink and rng.random() < 0.2 else name
            things[p.image].append(Thing(key, phrase, p.x, p.y, p.scale))
            regions.append(i)
            region_name.append(names.setdefault((key, name), len(names)))

        captions = [
            write(seen, rng, level) if seen else Caption("a picture.", frozenset(["a picture"]), True)
            for seen in things
        ]
        contents = [frozenset(t.key for t in seen) for seen in things]
        unnamed = [frozenset(h) for h in hidden]
        for image in rng.permutation(len(images))[: self.config.hard_negatives].tolist():
            if things[image]:
                other = self.atlas.keys[self.atlas.sample(rng)]
                if other not in contents[image] | unnamed[image]:
                    used = {t.key: t.name for t in things[image]}
                    captions.append(contradict(captions[image], image, used, other, rng))

        bare = [Caption(name, frozenset([key]), False) for key, name in names]
        name_truth = truth(contents, unnamed, bare, 0)
        many = torch.tensor([len(seen) > MANY for seen in things])
        name_truth[many] = torch.where(name_truth[many] > 0, -1, name_truth[many])
        keys = [self.atlas.keys[placed[i].sprite] for i in regions]
        column_keys = [key for key, _ in names]
        number = {key: k for k, key in enumerate(dict.fromkeys(column_keys))}
        region_key = torch.tensor([number[key] for key in keys])
        column_key = torch.tensor([number[key] for key in column_keys])
        concept = [self.atlas.concept_index.get(key, -1) for key in keys]
        image_concept = torch.full((len(images),), -1)
        for i, c in zip(regions, concept, strict=True):
            if len(things[placed[i].image]) == 1:
                image_concept[placed[i].image] = c
        return Batch(
            images=images,
            captions=_trim(self.tokenize([c.text for c in captions])),
            names=_trim(self.tokenize([name for _, name in names])),
            caption_truth=truth(contents, unnamed, captions, len(images)),
            name_truth=name_truth,
            region_image=torch.tensor([placed[i].image for i in regions]),
            region_mask=masks[torch.tensor(regions, device=masks.device)],
            region_truth=(region_key[:, None] == column_key[None]).to(torch.int8),  # [R, U]
            region_name=torch.tensor(region_name),
            region_concept=torch.tensor(concept),
            image_concept=image_concept,
        )


def _trim(tokens: Tensor) -> Tensor:
    """Drop columns that are padding in every row."""
    return tokens[:, : int((tokens != 0).sum(1).max())]
