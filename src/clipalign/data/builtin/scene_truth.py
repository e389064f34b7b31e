"""Of which scenes a sentence is true: the definition for one scene, and a table that answers for many at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array

from .scene_grammar import (
    APART,
    BACKGROUNDS,
    PLACES,
    RELATIONS,
    BackgroundClaim,
    Facts,
    Grammar,
    ObjectClaim,
    Proposition,
    Thing,
)

FAMILY_NAMES = tuple(BACKGROUNDS)


def related(relation: str, one: Thing, other: Thing) -> bool:
    """Whether `one` is left of, right of, above, below, larger or smaller than `other`.

    Centres must lie `APART`; sizes compare by their words.
    """
    return {
        "left": other.x - one.x >= APART,
        "right": one.x - other.x >= APART,
        "above": other.y - one.y >= APART,
        "below": one.y - other.y >= APART,
        "larger": one.size > other.size,
        "smaller": one.size < other.size,
    }[relation]


def holds(claim: Proposition, scene: Facts) -> bool:
    """Whether a claim is true of a scene: the definition, which `Truth` answers for many scenes at once."""
    if isinstance(claim, BackgroundClaim):
        return claim.family == scene.family and claim.colours in ((), scene.colours)
    by_concept = {thing.concept: thing for thing in scene.things}
    thing = by_concept.get(claim.concept)
    if thing is None:
        return False
    column, row = thing.place
    for said, true in (
        (claim.size, thing.size),
        (claim.colour, thing.colour),
        (claim.column, column),
        (claim.row, row),
    ):
        if said is not None and said != true:
            return False
    if claim.relation is None or claim.other is None:
        return True
    other = by_concept.get(claim.other)
    return other is not None and related(claim.relation, thing, other)


def describe(scene: Facts, rng: np.random.Generator) -> list[tuple[Proposition, int | None]]:
    """Some true claims about a scene, in random order: one for each object, one for the background.

    Returns:
        Claims, each with the position in `scene.things` of the object it speaks of (None: the background).
    """
    colours = scene.colours if rng.random() < 0.8 else ()
    claims: list[tuple[Proposition, int | None]] = [(BackgroundClaim(scene.family, colours), None)]
    for i, thing in enumerate(scene.things):
        claims.append((_describe_thing(thing, scene, rng), i))
    return [claims[i] for i in rng.permutation(len(claims))]


def _describe_thing(thing: Thing, scene: Facts, rng: np.random.Generator) -> ObjectClaim:
    """A claim of some facts; always of one beyond the name."""
    size, colour, place, relation = (rng.random(4) < (0.5, 0.8, 0.6, 0.45)).tolist()
    place = place or not (size or relation)
    column, row = _say_place(thing, rng) if place else (None, None)
    found, other = _say_relation(thing, scene, rng) if relation else (None, None)
    return ObjectClaim(
        thing.concept,
        thing.size if size else None,
        thing.colour if colour else None,
        column,
        row,
        found,
        other,
    )


def _say_place(thing: Thing, rng: np.random.Generator) -> tuple[int | None, int | None]:
    column, row = thing.place
    true = [place for place in PLACES if place[0] in (None, column) and place[1] in (None, row)]
    return true[int(rng.integers(len(true)))]


def _say_relation(
    thing: Thing, scene: Facts, rng: np.random.Generator
) -> tuple[str, int] | tuple[None, None]:
    true = [
        (relation, other.concept)
        for other in scene.things
        if other is not thing
        for relation in RELATIONS
        if related(relation, thing, other)
    ]
    return true[int(rng.integers(len(true)))] if true else (None, None)


class Truth:
    """The facts of n scenes as columns.

    Args:
        scenes: their facts.
        concepts: number of concepts.
    """

    def __init__(self, scenes: Sequence[Facts], concepts: int) -> None:
        self.scenes = len(scenes)
        things = [thing for scene in scenes for thing in scene.things]
        self._scene = np.repeat(np.arange(self.scenes), [len(scene.things) for scene in scenes])
        concept = np.array([thing.concept for thing in things], np.int64)
        self._size = np.array([thing.size for thing in things], np.int64)
        self._colour = np.array([-1 if t.colour is None else t.colour for t in things], np.int64)
        self._place = np.array([thing.place for thing in things], np.int64).reshape(-1, 2)
        self._centre = np.array([(thing.x, thing.y) for thing in things], np.float64).reshape(-1, 2)
        # [scenes, concepts]: number of the thing, -1 where the scene has none.
        self._thing = np.full((self.scenes, concepts), -1)
        self._thing[self._scene, concept] = np.arange(len(things))
        order = np.argsort(concept, kind="stable")
        self._of_concept = np.split(order, np.searchsorted(concept[order], np.arange(1, concepts)))
        self._family = np.array([FAMILY_NAMES.index(scene.family) for scene in scenes], np.int64)
        self._colours = np.full((self.scenes, 2), -1)
        for i, scene in enumerate(scenes):
            self._colours[i, : len(scene.colours)] = scene.colours

    def where(self, claim: Proposition) -> np.ndarray:
        """Scenes that a claim is true of: [k] int64, ascending."""
        if isinstance(claim, ObjectClaim):
            return self._where_object(claim)
        true = self._family == FAMILY_NAMES.index(claim.family)
        if claim.colours:
            true &= (self._colours == (*claim.colours, -1)[:2]).all(1)
        return np.flatnonzero(true)

    def _where_object(self, claim: ObjectClaim) -> np.ndarray:
        found = self._of_concept[claim.concept]
        for said, column in (
            (claim.size, self._size),
            (claim.colour, self._colour),
            (claim.column, self._place[:, 0]),
            (claim.row, self._place[:, 1]),
        ):
            if said is not None:
                found = found[column[found] == said]
        if claim.relation is not None and claim.other is not None:
            other = self._thing[self._scene[found], claim.other]
            found, other = found[other >= 0], other[other >= 0]
            found = found[self._related(claim.relation, found, other)]
        return self._scene[found]

    def _related(self, relation: str, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        if relation in ("larger", "smaller"):
            gap = self._size[one] - self._size[other]
            return gap > 0 if relation == "larger" else gap < 0
        axis = 0 if relation in ("left", "right") else 1
        gap = self._centre[one, axis] - self._centre[other, axis]
        # Negated and not compared with -APART: the same rounding as in `related`.
        return gap >= APART if relation in ("right", "below") else -gap >= APART

    def relevance(self, texts: Sequence[str], grammar: Grammar) -> csr_array:
        """[texts, scenes] sparse bool: a caption is true where all its sentences are.

        Raises:
            UserError: a sentence that is not of the grammar.
        """
        known: dict[Proposition, np.ndarray] = {}
        columns = []
        for text in texts:
            true: np.ndarray | None = None
            for claim in grammar.claims(text):
                if claim not in known:
                    known[claim] = self.where(claim)
                true = known[claim] if true is None else true[np.isin(true, known[claim])]
                if len(true) == 0:
                    break
            columns.append(np.zeros(0, np.int64) if true is None else true)
        starts = np.concatenate([[0], np.cumsum([len(found) for found in columns])]).astype(np.int64)
        indices = np.concatenate([*columns, np.zeros(0, np.int64)])
        return csr_array((np.ones(len(indices), bool), indices, starts), shape=(len(texts), self.scenes))
