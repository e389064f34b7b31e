"""Decide which scenes a sentence is true of: `holds` for one scene, `Truth` for many scenes at once."""

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
    """Return whether a relation (a key of `RELATIONS`) holds between two objects.

    Positions must differ by at least `APART`; sizes are compared by their words.
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
    """Return whether a claim is true of a scene. This is the definition; `Truth` is its fast form."""
    if isinstance(claim, BackgroundClaim):
        return claim.family == scene.family and claim.colours in ((), scene.colours)
    by_concept = {thing.concept: thing for thing in scene.things}
    thing = by_concept.get(claim.concept)
    if thing is None:
        return False
    column, row = thing.place
    for claimed, actual in (
        (claim.size, thing.size),
        (claim.colour, thing.colour),
        (claim.column, column),
        (claim.row, row),
    ):
        if claimed is not None and claimed != actual:
            return False
    if claim.relation is None or claim.other is None:
        return True
    other = by_concept.get(claim.other)
    return other is not None and related(claim.relation, thing, other)


def describe(scene: Facts, rng: np.random.Generator) -> list[tuple[Proposition, int | None]]:
    """Draw true claims about a scene in random order: one per object, and one on the background.

    Returns:
        Claims, each with the position in `scene.things` of its object (None: the background).
    """
    colours = scene.colours if rng.random() < 0.8 else ()
    claims: list[tuple[Proposition, int | None]] = [(BackgroundClaim(scene.family, colours), None)]
    for i, thing in enumerate(scene.things):
        claims.append((_draw_claim(thing, scene, rng), i))
    return [claims[i] for i in rng.permutation(len(claims))]


def _draw_claim(thing: Thing, scene: Facts, rng: np.random.Generator) -> ObjectClaim:
    """Draw a true claim about an object that says more than its name."""
    with_size, with_colour, with_place, with_relation = (rng.random(4) < (0.5, 0.8, 0.6, 0.45)).tolist()
    with_place = with_place or not (with_size or with_relation)
    column, row = _draw_place(thing, rng) if with_place else (None, None)
    relation, other = _draw_relation(thing, scene, rng) if with_relation else (None, None)
    return ObjectClaim(
        thing.concept,
        thing.size if with_size else None,
        thing.colour if with_colour else None,
        column,
        row,
        relation,
        other,
    )


def _draw_place(thing: Thing, rng: np.random.Generator) -> tuple[int | None, int | None]:
    column, row = thing.place
    true = [place for place in PLACES if place[0] in (None, column) and place[1] in (None, row)]
    return true[int(rng.integers(len(true)))]


def _draw_relation(
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
    """The facts of n scenes as arrays, one entry per object.

    Args:
        scenes: n scenes.
        concepts: number of concepts.
    """

    def __init__(self, scenes: Sequence[Facts], concepts: int) -> None:
        self.scenes = len(scenes)
        things = [thing for scene in scenes for thing in scene.things]
        self._scene = np.repeat(np.arange(self.scenes), [len(scene.things) for scene in scenes])  # [objects]
        concept = np.array([thing.concept for thing in things], np.int64)  # [objects]
        self._size = np.array([thing.size for thing in things], np.int64)  # [objects]
        self._colour = np.array([-1 if t.colour is None else t.colour for t in things], np.int64)  # [objects]
        self._place = np.array([thing.place for thing in things], np.int64).reshape(-1, 2)  # [objects, 2]
        centres = [(thing.x, thing.y) for thing in things]
        self._centre = np.array(centres, np.float64).reshape(-1, 2)  # [objects, 2]
        # [scenes, concepts]: index of the object, -1: the scene has none.
        self._thing = np.full((self.scenes, concepts), -1)
        self._thing[self._scene, concept] = np.arange(len(things))
        order = np.argsort(concept, kind="stable")
        # Concept -> its objects, ascending.
        self._of_concept = np.split(order, np.searchsorted(concept[order], np.arange(1, concepts)))
        self._family = np.array([FAMILY_NAMES.index(scene.family) for scene in scenes], np.int64)
        self._colours = np.full((self.scenes, 2), -1)  # [scenes, 2], padded
        for i, scene in enumerate(scenes):
            self._colours[i, : len(scene.colours)] = scene.colours

    def where(self, claim: Proposition) -> np.ndarray:
        """Return the scenes that a claim is true of: [k] int64, ascending."""
        if isinstance(claim, ObjectClaim):
            return self._where_object(claim)
        true = self._family == FAMILY_NAMES.index(claim.family)
        if claim.colours:
            true &= (self._colours == (*claim.colours, -1)[:2]).all(1)
        return np.flatnonzero(true)

    def _where_object(self, claim: ObjectClaim) -> np.ndarray:
        objects = self._of_concept[claim.concept]
        for claimed, actual in (
            (claim.size, self._size),
            (claim.colour, self._colour),
            (claim.column, self._place[:, 0]),
            (claim.row, self._place[:, 1]),
        ):
            if claimed is not None:
                objects = objects[actual[objects] == claimed]
        if claim.relation is not None and claim.other is not None:
            other = self._thing[self._scene[objects], claim.other]
            objects, other = objects[other >= 0], other[other >= 0]
            objects = objects[self._related(claim.relation, objects, other)]
        return self._scene[objects]

    def _related(self, relation: str, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        if relation in ("larger", "smaller"):
            gap = self._size[one] - self._size[other]
            return gap > 0 if relation == "larger" else gap < 0
        axis = 0 if relation in ("left", "right") else 1
        gap = self._centre[one, axis] - self._centre[other, axis]
        # Negated rather than compared with -APART, to round as `related` does.
        return gap >= APART if relation in ("right", "below") else -gap >= APART

    def relevance(self, texts: Sequence[str], grammar: Grammar) -> csr_array:
        """Return whether all sentences of a caption are true of a scene: [texts, scenes] sparse bool.

        Raises:
            UserError: a sentence that the grammar does not generate.
        """
        known: dict[Proposition, np.ndarray] = {}
        columns = []  # of each text: scenes that it is true of
        for text in texts:
            true: np.ndarray | None = None
            for claim in grammar.claims(text):
                if claim not in known:
                    known[claim] = self.where(claim)
                true = known[claim] if true is None else true[np.isin(true, known[claim])]
                if len(true) == 0:
                    break
            columns.append(np.zeros(0, np.int64) if true is None else true)
        starts = np.concatenate([[0], np.cumsum([len(rows) for rows in columns])]).astype(np.int64)
        indices = np.concatenate([*columns, np.zeros(0, np.int64)])
        return csr_array((np.ones(len(indices), bool), indices, starts), shape=(len(texts), self.scenes))
