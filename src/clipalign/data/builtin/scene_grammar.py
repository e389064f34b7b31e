"""Sentences about composed scenes, and what they claim: written by a grammar, read back by it.

A sentence claims some of the facts of a scene; every sentence of the grammar can be parsed into its claim, so that
whether it is true of any scene is known and not guessed (`scene_truth`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ...core.errors import UserError
from ..captions.sentences import sentences_of

# Named colours of inks and backgrounds, as red, green and blue in [0, 1].
COLOURS: dict[str, tuple[float, float, float]] = {
    "black": (0.05, 0.05, 0.05),
    "white": (0.96, 0.96, 0.96),
    "red": (0.85, 0.10, 0.10),
    "orange": (0.96, 0.52, 0.08),
    "yellow": (0.98, 0.86, 0.15),
    "green": (0.10, 0.58, 0.18),
    "blue": (0.12, 0.30, 0.85),
    "purple": (0.48, 0.14, 0.66),
    "pink": (0.98, 0.56, 0.74),
    "brown": (0.45, 0.26, 0.12),
}
COLOUR_NAMES = tuple(COLOURS)
SIZES = ("small", "medium-sized", "large")
# (column, row), each 0, 1, 2 from the top left; None where the words leave it open.
PLACES: dict[tuple[int | None, int | None], str] = {
    (0, 0): "in the top left",
    (2, 0): "in the top right",
    (0, 2): "in the bottom left",
    (2, 2): "in the bottom right",
    (1, 1): "in the centre",
    (0, None): "on the left",
    (2, None): "on the right",
    (None, 0): "at the top",
    (None, 2): "at the bottom",
}
RELATIONS = {
    "left": "to the left of",
    "right": "to the right of",
    "above": "above",
    "below": "below",
    "larger": "larger than",
    "smaller": "smaller than",
}
THIRD = 1 / 6  # columns and rows part here, in canvas sides from the centre
APART = 0.1  # how far centres must lie apart for "left of", "above" and so on

# A background with its colours, and without.
BACKGROUNDS = {
    "flat": ("a plain {} background", "a plain background"),
    "gradient": ("a background that fades between {} and {}", "a background that fades between two colours"),
    "stripes": ("a pattern of {} and {} behind", "a pattern of two colours behind"),
    "noise": ("", "a background of blurred patches"),
    "clutter": ("", "a background full of little signs"),
}
BACKGROUND_FORMS = ("The picture has {}", "There is {}", "One can see {}")
PLURAL = frozenset({"grapes", "french fries", "glasses", "scissors", "scales", "headphones", "theater masks"})
UNCOUNTED = frozenset({"wheat", "bread", "bacon", "popcorn", "milk", "coffee", "wine", "beer"})


@dataclass(frozen=True)
class Thing:
    """One object as it stands in a scene.

    Attributes:
        concept: what it is.
        size: index into `SIZES`.
        x, y: its centre, in canvas sides from the canvas's centre (-0.5 ... 0.5), y downwards.
        colour: index into `COLOUR_NAMES` of the ink it is drawn in; None for drawings in colours of their own.
    """

    concept: int
    size: int
    x: float
    y: float
    colour: int | None

    @property
    def place(self) -> tuple[int, int]:
        """Column and row of the centre."""
        return third(self.x), third(self.y)


@dataclass(frozen=True)
class Facts:
    """All that sentences can be true of: objects, no concept twice, and a background.

    Attributes:
        things: the objects.
        family: of the background, a key of `BACKGROUNDS`.
        colours: of the background, ascending; empty for families without colours that have names.
    """

    things: tuple[Thing, ...]
    family: str
    colours: tuple[int, ...]


@dataclass(frozen=True)
class ObjectClaim:
    """There is an object of this concept, and all that is not None is true of it.

    `column` and `row` are as in `PLACES`; `relation` is a key of `RELATIONS`, to the concept `other`.
    """

    concept: int
    size: int | None = None
    colour: int | None = None
    column: int | None = None
    row: int | None = None
    relation: str | None = None
    other: int | None = None


@dataclass(frozen=True)
class BackgroundClaim:
    """The background is of this family and, where not empty, has these colours (ascending)."""

    family: str
    colours: tuple[int, ...] = ()


Proposition = ObjectClaim | BackgroundClaim


def third(position: float) -> int:
    """0, 1 or 2: which third of the canvas a coordinate lies in."""
    return int(position > -THIRD) + int(position > THIRD)


class Grammar:
    """Writes and reads sentences.

    Args:
        names: of the concepts, all different, in lower case.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._concept = {name: i for i, name in enumerate(self.names)}
        self._read_object = [re.compile(pattern) for pattern in _object_patterns(self.names)]
        self._backgrounds = _all_backgrounds()
        # Sentences come back in every epoch and every test.
        self.parse = lru_cache(maxsize=1 << 17)(self._parse)

    def __reduce__(self) -> tuple[type[Grammar], tuple[tuple[str, ...]]]:
        return Grammar, (self.names,)

    def say(self, claim: Proposition, rng: np.random.Generator) -> str:
        """One sentence without its stop, in a form drawn at random."""
        if isinstance(claim, BackgroundClaim):
            form = BACKGROUND_FORMS[int(rng.integers(len(BACKGROUND_FORMS)))]
            colours = [COLOUR_NAMES[c] for c in rng.permutation(claim.colours).astype(int)]
            return form.format(BACKGROUNDS[claim.family][0 if colours else 1].format(*colours))
        name = self.names[claim.concept]
        thing = noun_phrase(name, claim)
        verb = "are" if name in PLURAL else "is"
        place = PLACES.get((claim.column, claim.row), "")
        relation = ""
        if claim.relation is not None and claim.other is not None:
            relation = f"{RELATIONS[claim.relation]} the {self.names[claim.other]}"
        rest = " and ".join(part for part in (place, relation) if part)
        forms = [f"There {verb} {thing} {rest}", f"One can see {thing} {rest}"]
        if rest:
            forms += [f"{thing} {verb} {rest}"] * 2
        if place:
            forms.append(f"{place}, there {verb} {thing} {relation}")
        sentence = forms[int(rng.integers(len(forms)))].rstrip()
        return sentence[0].upper() + sentence[1:]

    def _parse(self, sentence: str) -> Proposition:
        """What a sentence claims, with or without its stop.

        Raises:
            UserError: not a sentence of this grammar.
        """
        text = sentence.strip().removesuffix(".").lower()
        if text in self._backgrounds:
            return self._backgrounds[text]
        for pattern in self._read_object:
            if (found := pattern.fullmatch(text)) is not None:
                return self._claim(found.groupdict())
        raise UserError(f'"{sentence}" is no sentence of the pictoscenes grammar')

    def claims(self, caption: str) -> tuple[Proposition, ...]:
        """What the sentences of a caption claim, in their order; see `parse`."""
        return tuple(self.parse(sentence) for sentence in sentences_of(caption))

    def _claim(self, words: dict[str, str | None]) -> ObjectClaim:
        size, colour, place, relation = (words[key] for key in ("size", "colour", "place", "relation"))
        column, row = _PLACE_OF[place] if place else (None, None)
        return ObjectClaim(
            self._concept[str(words["name"])],
            SIZES.index(size) if size else None,
            COLOUR_NAMES.index(colour) if colour else None,
            column,
            row,
            _RELATION_OF[relation] if relation else None,
            self._concept[str(words["other"])] if relation else None,
        )


_PLACE_OF = {words: place for place, words in PLACES.items()}
_RELATION_OF = {words: relation for relation, words in RELATIONS.items()}


def noun_phrase(name: str, claim: ObjectClaim) -> str:
    """ "a small bee in red ink"."""
    words = name if claim.size is None else f"{SIZES[claim.size]} {name}"
    article = "some" if name in PLURAL | UNCOUNTED else "an" if words[0] in "aeiou" else "a"
    ink = "" if claim.colour is None else f" in {COLOUR_NAMES[claim.colour]} ink"
    return f"{article} {words}{ink}"


def _object_patterns(names: Sequence[str]) -> list[str]:
    def one_of(words: Sequence[str]) -> str:
        return "|".join(re.escape(word) for word in words)

    thing = (
        rf"(?:an?|some) (?:(?P<size>{one_of(SIZES)}) )?(?P<name>{one_of(names)})"
        rf"(?: in (?P<colour>{one_of(COLOUR_NAMES)}) ink)?"
    )
    place = rf"(?P<place>{one_of(tuple(PLACES.values()))})"
    relation = (
        rf"(?: (?:and )?(?P<relation>{one_of(tuple(RELATIONS.values()))}) the (?P<other>{one_of(names)}))?"
    )
    return [
        rf"(?:there (?:is|are) |one can see ){thing}(?: {place})?{relation}",
        rf"{thing} (?:is|are)(?: {place})?{relation}",
        rf"{place}, there (?:is|are) {thing}{relation}",
    ]


def _all_backgrounds() -> dict[str, BackgroundClaim]:
    """Every sentence about a background, in lower case -> what it claims."""
    said: dict[str, BackgroundClaim] = {}
    everything = range(len(COLOUR_NAMES))
    for family, (coloured, plain) in BACKGROUNDS.items():
        phrases = {plain: BackgroundClaim(family)}
        if family == "flat":
            phrases |= {coloured.format(COLOUR_NAMES[c]): BackgroundClaim(family, (c,)) for c in everything}
        elif coloured:
            phrases |= {
                coloured.format(COLOUR_NAMES[c], COLOUR_NAMES[d]): BackgroundClaim(
                    family, (min(c, d), max(c, d))
                )
                for c in everything
                for d in everything
                if c != d
            }
        for form in BACKGROUND_FORMS:
            said |= {form.format(phrase).lower(): claim for phrase, claim in phrases.items()}
    return said
