"""The grammar says what it means: sentences are read back into their claims, and truth is what the pixels show."""

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

# Names within names, plural ones, vowels and signs.
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
        many = {"flat": 1, "gradient": 2, "stripes": 2}.get(family, 0) if draw(st.booleans()) else 0
        return BackgroundClaim(
            family, tuple(sorted(draw(st.lists(colours, min_size=many, max_size=many, unique=True))))
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
    inked = draw(st.booleans())
    centre = st.integers(-45, 45).map(lambda hundredths: hundredths / 100)
    things = tuple(
        Thing(c, draw(st.integers(0, 2)), draw(centre), draw(centre), draw(colours) if inked else None)
        for c in found
    )
    family = draw(st.sampled_from(list(BACKGROUNDS)))
    many = {"flat": 1, "gradient": 2, "stripes": 2}.get(family, 0)
    behind = draw(st.lists(colours, min_size=many, max_size=many, unique=True))
    return Facts(things, family, tuple(sorted(behind)))


def literally(sentence: str, scene: Facts) -> bool:
    """The truth of a sentence from its words: no parser, no table, each word looked for on its own."""
    words = sentence.lower()
    if "background" in words or "pattern" in words:
        said = [name for name in COLOUR_NAMES if re.search(rf"\b{name}\b", words)]
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
        shown = {COLOUR_NAMES[c] for c in scene.colours}
        return scene.family == family and (not said or set(said) == shown)
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
def test_a_sentence_is_read_back_into_its_claim(claim: Proposition, seed: int) -> None:
    sentence = GRAMMAR.say(claim, np.random.default_rng(seed))
    assert GRAMMAR.parse(sentence) == GRAMMAR.parse(f"{sentence}.") == claim
    assert ". " not in sentence and "  " not in sentence and sentence == sentence.strip()


@settings(max_examples=100, deadline=None)
@given(scenes(), st.integers(0, 2**32))
def test_what_is_said_of_a_scene_is_true_of_it(scene: Facts, seed: int) -> None:
    rng = np.random.default_rng(seed)
    said = describe(scene, rng)
    assert sorted(-1 if thing is None else thing for _, thing in said) == list(range(-1, len(scene.things)))
    for claim, _ in said:
        assert holds(claim, scene)
        assert literally(GRAMMAR.say(claim, rng), scene)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(claims(), min_size=1, max_size=12),
    st.lists(scenes(), min_size=1, max_size=6),
    st.integers(0, 99),
)
def test_table_definition_and_words_agree(said: list[Proposition], shown: list[Facts], seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Claims about the scenes themselves too: random ones are hardly ever true.
    said = said + [claim for scene in shown for claim, _ in describe(scene, rng)]
    sentences = [GRAMMAR.say(claim, rng) for claim in said]
    table = Truth(shown, len(NAMES)).relevance(sentences, GRAMMAR).toarray()
    assert table.shape == (len(said), len(shown)) and table.dtype == bool
    for i, claim in enumerate(said):
        for j, scene in enumerate(shown):
            assert table[i, j] == holds(claim, scene) == literally(sentences[i], scene), (sentences[i], scene)


@settings(max_examples=50, deadline=None)
@given(st.lists(scenes(), min_size=2, max_size=5), st.integers(0, 99))
def test_a_caption_is_true_where_all_its_sentences_are(shown: list[Facts], seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = Truth(shown, len(NAMES))
    for i, scene in enumerate(shown):
        said = [GRAMMAR.say(claim, rng) for claim, _ in describe(scene, rng)]
        whole = truth.relevance([join_sentences(said)], GRAMMAR).toarray()[0]
        assert np.array_equal(whole, truth.relevance(said, GRAMMAR).toarray().all(0)) and whole[i]


@pytest.mark.parametrize(
    "text", ["A photo of a dog.", "There is a wombat on the left", "", "There is a large"]
)
def test_other_sentences_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="grammar"):
        GRAMMAR.parse(text)


def test_articles_and_verbs() -> None:
    def forms(claim: ObjectClaim) -> set[str]:
        return {GRAMMAR.say(claim, np.random.default_rng(i)) for i in range(40)}

    assert "An egg is on the left" in forms(ObjectClaim(0, column=0))
    assert "Some grapes are at the top" in forms(ObjectClaim(2, row=0))
    assert "There is some milk in red ink" in forms(ObjectClaim(8, colour=2))
    assert "On the left, there is a large orange fruit above the egg" in forms(
        ObjectClaim(9, size=2, column=0, relation="above", other=0)
    )
    assert len(forms(ObjectClaim(0, column=0, relation="above", other=3))) == 4


def test_a_grammar_travels_to_workers() -> None:
    assert pickle.loads(pickle.dumps(GRAMMAR)).parse("There is an egg") == ObjectClaim(0)
