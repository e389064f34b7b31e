"""Captions of scenes, hard negatives, and which captions are true of which images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

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
OPENINGS = ("", "", "there is ", "a picture of ", "a photo of ", "an image with ")
COLUMNS, ROWS = ("left", "centre", "right"), ("top", "middle", "bottom")
OPPOSITE = {
    "left": "right",
    "right": "left",
    "top": "bottom",
    "bottom": "top",
    "above": "below",
    "below": "above",
}
APART = 0.15  # smallest distance of centres, in canvas sides, for a spatial relation
SMALL, LARGE = 0.25, 0.5  # scales up to and from which a drawing is called small and large


@dataclass(frozen=True)
class Thing:
    """A visible named drawing: key, name to use in text, centre and scale in canvas sides."""

    key: str
    name: str
    x: float
    y: float
    scale: float


@dataclass(frozen=True)
class Caption:
    """A caption and what it claims.

    Attributes:
        text: The sentence or sentences.
        keys: Keys of the drawings it mentions.
        qualified: Whether it also claims places, sizes, colours or relations.
        false_of: Index of an image that it contradicts although that image may contain all keys, or -1.
    """

    text: str
    keys: frozenset[str]
    qualified: bool
    false_of: int = -1


def place(thing: Thing) -> str | None:
    """Return a phrase for the third of the canvas that a drawing's centre is in, or None in the centre."""
    column = None if 1 / 3 < thing.x < 2 / 3 else "left" if thing.x < 0.5 else "right"
    row = None if 1 / 3 < thing.y < 2 / 3 else "top" if thing.y < 0.5 else "bottom"
    if column and row:
        return f"in the {row} {column}"
    if column:
        return f"on the {column}"
    return f"at the {row}" if row else None


def relation(a: Thing, b: Thing) -> str | None:
    """Return a phrase for where `a` is relative to `b`, along the axis on which they are further apart."""
    dx, dy = a.x - b.x, a.y - b.y
    if max(abs(dx), abs(dy)) < APART:
        return None
    if abs(dx) > abs(dy):
        return "to the left of" if dx < 0 else "to the right of"
    return "above" if dy < 0 else "below"


def write(things: Sequence[Thing], rng: np.random.Generator, level: float) -> Caption:
    """Write a caption of a scene; bare names and templates come first in the curriculum."""
    if len(things) == 1:
        thing = things[0]
        if rng.random() < 0.8 - level:
            return Caption(thing.name, frozenset([thing.key]), False)
        where = place(thing) if rng.random() < 0.15 * level else None
        text = TEMPLATES[int(rng.integers(len(TEMPLATES)))].format(thing.name)
        if where:
            text = f"{text.rstrip('.')} {where}."
        return Caption(text, frozenset([thing.key]), where is not None)
    order = [things[i] for i in rng.permutation(len(things))]
    kind = rng.random()
    if kind < 0.3:
        return describe_one(order[0], rng)
    if kind < 0.5:
        return describe_several(order[: int(rng.integers(2, min(len(order), 4) + 1))], rng)
    if kind < 0.65:
        phrase = relation(order[0], order[1])
        if phrase:
            text = f"a {order[0].name} {phrase} a {order[1].name}."
            return Caption(text, frozenset([order[0].key, order[1].key]), True)
        return describe_several(order[:2], rng)
    return describe_all(order[: int(rng.integers(2, min(len(order), 5) + 1))], rng)


def describe_one(thing: Thing, rng: np.random.Generator) -> Caption:
    """Name one drawing of several, at times with its size or place."""
    keys = frozenset([thing.key])
    kind = rng.random()
    if kind < 0.25 and (thing.scale <= SMALL or thing.scale >= LARGE):
        return Caption(f"a {'small' if thing.scale <= SMALL else 'large'} {thing.name}.", keys, True)
    where = place(thing)
    if kind < 0.5 and where:
        return Caption(f"a {thing.name} {where}.", keys, True)
    return Caption(TEMPLATES[int(rng.integers(len(TEMPLATES)))].format(thing.name), keys, False)


def describe_several(things: Sequence[Thing], rng: np.random.Generator) -> Caption:
    names = [f"a {thing.name}" for thing in things]
    opening = OPENINGS[int(rng.integers(len(OPENINGS)))]
    text = opening + ", ".join(names[:-1]) + " and " + names[-1]
    return Caption(text + ("." if rng.random() < 0.7 else ""), frozenset(t.key for t in things), False)


def describe_all(things: Sequence[Thing], rng: np.random.Generator) -> Caption:
    """One sentence per drawing, most of them with a place or a relation to the previous drawing."""
    sentences = []
    for i, thing in enumerate(things):
        size = "small " if thing.scale <= SMALL else "large " if thing.scale >= LARGE else ""
        if rng.random() < 0.6:
            size = ""
        where = place(thing)
        phrase = relation(thing, things[i - 1]) if i else None
        if phrase and rng.random() < 0.4:
            sentences.append(f"a {size}{thing.name} is {phrase} the {things[i - 1].name}.")
        elif where:
            sentences.append(f"there is a {size}{thing.name} {where}.")
        else:
            sentences.append(f"there is a {size}{thing.name}.")
    return Caption(" ".join(sentences), frozenset(t.key for t in things), True)


def contradict(
    caption: Caption, image: int, names: dict[str, str], other: str, rng: np.random.Generator
) -> Caption:
    """Change one object or one place of a caption, so that it is false of its image.

    Args:
        caption: A caption of image `image`.
        names: Key to the name that the caption uses.
        other: Name (and key) of a drawing that the image does not contain.
        rng: Source of randomness.
    """
    words = caption.text.split(" ")
    swappable = (
        [i for i, word in enumerate(words) if word.rstrip(".") in OPPOSITE] if caption.qualified else []
    )
    if swappable and rng.random() < 0.5:
        i = swappable[int(rng.integers(len(swappable)))]
        word = words[i].rstrip(".")
        words[i] = words[i].replace(word, OPPOSITE[word])
        return Caption(" ".join(words), caption.keys, True, image)
    keys = sorted(caption.keys)
    key = keys[int(rng.integers(len(keys)))]
    whole = re.compile(rf"(?<!\w){re.escape(names[key])}(?!\w)")  # a name may also be part of a longer word
    text = whole.sub(other, caption.text, count=1)
    return Caption(text, caption.keys - {key} | {other}, caption.qualified, image)


def truth(
    contents: Sequence[frozenset[str]],
    unnamed: Sequence[frozenset[str]],
    captions: Sequence[Caption],
    own: int,
) -> Tensor:
    """Return which captions are true of which images.

    Args:
        contents: Keys of the visible named drawings of each of B images.
        unnamed: Keys of its clutter and hidden drawings.
        captions: T captions, the first `own` of which are those of images 0 ... own - 1.
        own: Number of captions with an image.

    Returns:
        [B, T] int8: 1 true, 0 false, -1 unknown (not used by the loss).
    """
    index: dict[str, int] = {}
    for keys in (*contents, *unnamed, *(c.keys for c in captions)):
        for key in keys:
            index.setdefault(key, len(index))

    def multi_hot(groups: Sequence[frozenset[str]]) -> Tensor:
        table = torch.zeros(len(groups), len(index))
        for row, keys in enumerate(groups):
            table[row, [index[key] for key in keys]] = 1
        return table

    mentioned = multi_hot([c.keys for c in captions])  # [T, K]
    counts = mentioned.sum(1)  # [T]
    named = multi_hot(contents)  # [B, K]
    everything = (named + multi_hot(unnamed)).clamp(max=1)
    contained = (named @ mentioned.T) == counts  # [B, T]
    possible = (everything @ mentioned.T) == counts
    qualified = torch.tensor([c.qualified for c in captions])
    relation = torch.where(contained & ~qualified, 1, torch.where(possible, -1, 0)).to(torch.int8)
    relation[torch.arange(own), torch.arange(own)] = 1
    for t, caption in enumerate(captions):
        if caption.false_of >= 0:
            relation[caption.false_of, t] = 0
    return relation
