"""Grammar and truth: parsing inverts writing, and relevance agrees with two independent definitions."""

from __future__ import annotations

import pickle
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipalign.core.errors import UserError
from clipalign.data.builtin.scene_grammar import (
    APART,
    BACKGROUNDS,
    COLOUR_NAMES,
    PLACES,
    RELATIONS,
    SIZES,
    BackgroundClaim,
    Facts,
    Grammar,
    ObjectClaim,
    Proposition,
    Thing,
)
from clipalign.data.builtin.scene_truth import Truth, describe, holds
from clipalign.data.captions.sentences import join_sentences

# Names that contain others, plurals, vowels and hyphens.
NAMES = (
    "egg",
    "fried egg",
    "grapes",
    "t-shirt",
    "spider",
    "spider web",
    "bath",
    "bat",
    "milk",
    "orange fruit",
)
GRAMMAR = Grammar(NAMES)

concepts = st.integers(0, len(NAMES) - 1)
colours = st.integers(0, len(COLOUR_NAMES) - 1)


@st.composite
def claims(draw: st.DrawFn) -> Proposition:
    if draw(st.booleans()):
        family = draw(st.sampled_from(list(BACKGROUNDS)))
        count = {"flat": 1, "gradient": 2, "stripes": 2}.get(family, 0) if draw(st.booleans()) else 0
        return BackgroundClaim(
            family, tuple(sorted(draw(st.lists(colours, min_size=count, max_size=count, unique=True))))
        )
    column, row = draw(st.sampled_from([(None, None), *PLACES]))
    relation = draw(st.sampled_from([None, *RELATIONS]))
    return ObjectClaim(
        draw(concepts),
        draw(st.none() | st.integers(0, len(SIZES) - 1)),
        draw(st.none() | colours),
        column,
        row,
        relation,
        draw(concepts) if relation else None,
    )


@st.composite
def scenes(draw: st.DrawFn) -> Facts:
    found = draw(st.lists(concepts, min_size=2, max_size=6, unique=True))
    monochrome = draw(st.booleans())
    centre = st.integers(-45, 45).map(lambda hundredths: hundredths / 100)
    things = tuple(
        Thing(c, draw(st.integers(0, 2)), draw(centre), draw(centre), draw(colours) if monochrome else None)
        for c in found
    )
    family = draw(st.sampled_from(list(BACKGROUNDS)))
    count = {"flat": 1, "gradient": 2, "stripes": 2}.get(family, 0)
    background = draw(st.lists(colours, min_size=count, max_size=count, unique=True))
    return Facts(things, family, tuple(sorted(background)))


def true_by_words(sentence: str, scene: Facts) -> bool:
    """Return the truth of a sentence from its words, without parser and without table."""
    words = sentence.lower()
    if "background" in words or "pattern" in words:
        named = [name for name in COLOUR_NAMES if re.search(rf"\b{name}\b", words)]
        family = next(
            family
            for word, family in {
                "plain": "flat",
                "fades": "gradient",
                "pattern": "stripes",
                "blurred": "noise",
                "signs": "clutter",
            }.items()
            if word in words
        )
        actual = {COLOUR_NAMES[c] for c in scene.colours}
        return scene.family == family and (not named or set(named) == actual)
    relation = next((key for key, text in RELATIONS.items() if f" {text} the " in words), None)
    other = None
    if relation:
        words, name = words.split(f" {RELATIONS[relation]} the ")
        other = next((t for t in scene.things if NAMES[t.concept] == name), None)
        if other is None:
            return False
    place = next((key for key, text in PLACES.items() if text in words), None)
    rest = words.replace(PLACES[place], "") if place else words
    ink = re.search(r" in (\w+) ink", rest)
    rest = re.sub(r" in \w+ ink", "", rest)
    size = next((i for i, text in enumerate(SIZES) if f" {text} " in f" {rest} "), None)
    rest = re.sub(r"\b(there|is|are|one can see|an|a|some|and|small|medium-sized|large)\b|,", " ", rest)
    thing = next((t for t in scene.things if NAMES[t.concept] == " ".join(rest.split())), None)
    if thing is None:
        return False
    column = "left" if thing.x <= -1 / 6 else "right" if thing.x > 1 / 6 else "middle"
    row = "top" if thing.y <= -1 / 6 else "bottom" if thing.y > 1 / 6 else "middle"
    where = {
        "left": column == "left",
        "right": column == "right",
        "top": row == "top",
        "bottom": row == "bottom",
        "centre": column == row == "middle",
    }
    if place and not all(true for word, true in where.items() if re.search(rf"\b{word}\b", PLACES[place])):
        return False
    if ink and (thing.colour is None or COLOUR_NAMES[thing.colour] != ink[1]):
        return False
    if size is not None and size != thing.size:
        return False
    if other is None:
        return True
    return {
        "left": other.x - thing.x >= APART,
        "right": thing.x - other.x >= APART,
        "above": other.y - thing.y >= APART,
        "below": thing.y - other.y >= APART,
        "larger": thing.size > other.size,
        "smaller": thing.size < other.size,
    }[str(relation)]


@settings(max_examples=150, deadline=None)
@given(claims(), st.integers(0, 2**32))
def test_parse_inverts_say(claim: Proposition, seed: int) -> None:
    sentence = GRAMMAR.say(claim, np.random.default_rng(seed))
    assert GRAMMAR.parse(sentence) == GRAMMAR.parse(f"{sentence}.") == claim
    assert ". " not in sentence and "  " not in sentence and sentence == sentence.strip()


@settings(max_examples=100, deadline=None)
@given(scenes(), st.integers(0, 2**32))
def test_describe_gives_true_claims_about_every_object(scene: Facts, seed: int) -> None:
    rng = np.random.default_rng(seed)
    claims_made = describe(scene, rng)
    assert sorted(-1 if thing is None else thing for _, thing in claims_made) == list(
        range(-1, len(scene.things))
    )
    for claim, _ in claims_made:
        assert holds(claim, scene)
        assert true_by_words(GRAMMAR.say(claim, rng), scene)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(claims(), min_size=1, max_size=12),
    st.lists(scenes(), min_size=1, max_size=6),
    st.integers(0, 99),
)
def test_relevance_agrees_with_holds_and_with_the_words(
    claims_made: list[Proposition], scenes_made: list[Facts], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    # Add true claims, since random ones are hardly ever true.
    claims_made = claims_made + [claim for scene in scenes_made for claim, _ in describe(scene, rng)]
    sentences = [GRAMMAR.say(claim, rng) for claim in claims_made]
    table = Truth(scenes_made, len(NAMES)).relevance(sentences, GRAMMAR).toarray()
    assert table.shape == (len(claims_made), len(scenes_made)) and table.dtype == bool
    for i, claim in enumerate(claims_made):
        for j, scene in enumerate(scenes_made):
            assert table[i, j] == holds(claim, scene) == true_by_words(sentences[i], scene), (
                sentences[i],
                scene,
            )


@settings(max_examples=50, deadline=None)
@given(st.lists(scenes(), min_size=2, max_size=5), st.integers(0, 99))
def test_relevance_of_a_caption_is_that_of_all_its_sentences(scenes_made: list[Facts], seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = Truth(scenes_made, len(NAMES))
    for i, scene in enumerate(scenes_made):
        claims_made = [GRAMMAR.say(claim, rng) for claim, _ in describe(scene, rng)]
        whole = truth.relevance([join_sentences(claims_made)], GRAMMAR).toarray()[0]
        assert np.array_equal(whole, truth.relevance(claims_made, GRAMMAR).toarray().all(0)) and whole[i]


@pytest.mark.parametrize(
    "text", ["A photo of a dog.", "There is a wombat on the left", "", "There is a large"]
)
def test_parse_refuses_other_sentences(text: str) -> None:
    with pytest.raises(UserError, match="grammar"):
        GRAMMAR.parse(text)


def test_say_uses_correct_articles_and_verbs() -> None:
    def forms(claim: ObjectClaim) -> set[str]:
        return {GRAMMAR.say(claim, np.random.default_rng(i)) for i in range(40)}

    assert "An egg is on the left" in forms(ObjectClaim(0, column=0))
    assert "Some grapes are at the top" in forms(ObjectClaim(2, row=0))
    assert "There is some milk in red ink" in forms(ObjectClaim(8, colour=2))
    assert "On the left, there is a large orange fruit above the egg" in forms(
        ObjectClaim(9, size=2, column=0, relation="above", other=0)
    )
    assert len(forms(ObjectClaim(0, column=0, relation="above", other=3))) == 4


def test_grammar_can_be_pickled() -> None:
    assert pickle.loads(pickle.dumps(GRAMMAR)).parse("There is an egg") == ObjectClaim(0)
