"""A grammar that writes sentences about composed scenes, and parses them back into claims.

Each sentence claims some facts of a scene. Since every sentence can be parsed, `scene_truth` decides for any scene
whether the sentence is true of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ...core.errors import UserError
from ..captions.sentences import split_sentences

# Named colours of inks and backgrounds, RGB in [0, 1].
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
# (column, row), each 0, 1 or 2 from the top left; None: not specified.
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
THIRD = 1 / 6  # boundary of columns and rows, in canvas sides from the centre
APART = 0.1  # smallest distance of two centres for "left of", "above" and so on, in canvas sides

# Family -> phrase with its colours, phrase without.
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
    """One object of a scene. Its `repr` enters the data set's fingerprint, so names must not change.

    Attributes:
        concept: class index of Pictograms.
        size: index into `SIZES`.
        x, y: centre relative to the centre of the canvas, in canvas sides (-0.5 ... 0.5); y points down.
        colour: index into `COLOUR_NAMES` of the ink; None for drawings in several colours.
    """

    concept: int
    size: int
    x: float
    y: float
    colour: int | None

    @property
    def place(self) -> tuple[int, int]:
        """Column and row of the centre, each 0, 1 or 2."""
        return third(self.x), third(self.y)


@dataclass(frozen=True)
class Facts:
    """The facts of a scene: objects and background. Its `repr` enters the fingerprint, so names must not change.

    Attributes:
        things: the objects, of distinct concepts.
        family: family of the background, a key of `BACKGROUNDS`.
        colours: indices of the background's colours, ascending; empty for families without named colours.
    """

    things: tuple[Thing, ...]
    family: str
    colours: tuple[int, ...]


@dataclass(frozen=True)
class ObjectClaim:
    """The claim that the scene has an object of a concept, with all properties that are not None.

    Attributes:
        concept, size, colour: as in `Thing`.
        column, row: as in `PLACES`.
        relation: a key of `RELATIONS`, to the object of concept `other`.
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
    """The claim that the background is of a family and, if not empty, has these colours (ascending)."""

    family: str
    colours: tuple[int, ...] = ()


Proposition = ObjectClaim | BackgroundClaim


def third(position: float) -> int:
    """Return the third of the canvas that a coordinate lies in: 0, 1 or 2.

    >>> [third(x) for x in (-0.4, 0.0, 0.3)]
    [0, 1, 2]
    """
    return int(position > -THIRD) + int(position > THIRD)


class Grammar:
    """Writes and parses sentences.

    Args:
        names: names of the concepts, distinct, in lower case.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._concept = {name: i for i, name in enumerate(self.names)}
        self._object_patterns = [re.compile(pattern) for pattern in _object_patterns(self.names)]
        self._backgrounds = _background_sentences()
        # The same sentences are parsed in every epoch and every test.
        self.parse = lru_cache(maxsize=1 << 17)(self._parse)

    def __reduce__(self) -> tuple[type[Grammar], tuple[tuple[str, ...]]]:
        # Worker processes unpickle the source; caches cannot be pickled.
        return Grammar, (self.names,)

    def say(self, claim: Proposition, rng: np.random.Generator) -> str:
        """Return a sentence for a claim, without full stop, in a random form."""
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
        """Return the claim of a sentence, with or without full stop.

        Raises:
            UserError: the grammar does not generate the sentence.
        """
        text = sentence.strip().removesuffix(".").lower()
        if text in self._backgrounds:
            return self._backgrounds[text]
        for pattern in self._object_patterns:
            if (match := pattern.fullmatch(text)) is not None:
                return self._object_claim(match.groupdict())
        raise UserError(f'"{sentence}" is not a sentence of the pictoscenes grammar')

    def claims(self, caption: str) -> tuple[Proposition, ...]:
        """Return the claims of a caption's sentences, in order; raises as `parse` does."""
        return tuple(self.parse(sentence) for sentence in split_sentences(caption))

    def _object_claim(self, words: dict[str, str | None]) -> ObjectClaim:
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
    """Return the noun phrase of an object with its size and colour.

    >>> noun_phrase("bee", ObjectClaim(concept=0, size=0, colour=2))
    'a small bee in red ink'
    """
    words = name if claim.size is None else f"{SIZES[claim.size]} {name}"
    article = "some" if name in PLURAL | UNCOUNTED else "an" if words[0] in "aeiou" else "a"
    ink = "" if claim.colour is None else f" in {COLOUR_NAMES[claim.colour]} ink"
    return f"{article} {words}{ink}"


def _object_patterns(names: Sequence[str]) -> list[str]:
    """Return regular expressions, in lower case, that match all sentences about objects."""

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


def _background_sentences() -> dict[str, BackgroundClaim]:
    """Return every sentence about a background, in lower case, with its claim."""
    sentences: dict[str, BackgroundClaim] = {}
    colours = range(len(COLOUR_NAMES))
    for family, (coloured, plain) in BACKGROUNDS.items():
        phrases = {plain: BackgroundClaim(family)}
        if family == "flat":
            phrases |= {coloured.format(COLOUR_NAMES[c]): BackgroundClaim(family, (c,)) for c in colours}
        elif coloured:
            phrases |= {
                coloured.format(COLOUR_NAMES[c], COLOUR_NAMES[d]): BackgroundClaim(
                    family, (min(c, d), max(c, d))
                )
                for c in colours
                for d in colours
                if c != d
            }
        for form in BACKGROUND_FORMS:
            sentences |= {form.format(phrase).lower(): claim for phrase, claim in phrases.items()}
    return sentences
