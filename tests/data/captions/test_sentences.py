"""Sentences of captions, retrieval tests, and the buffer that stores captions."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from clipalign.core.types import CaptionTest
from clipalign.data.captions.buffer import CaptionBuffer
from clipalign.data.captions.sentences import (
    all_captions,
    choose_caption,
    choose_text,
    drop_rows,
    join_sentences,
    long_and_short,
    split_sentences,
)

SENTENCE = st.text("abc ,-", min_size=1, max_size=12).map(str.strip).filter(bool)
CAPTION = st.lists(SENTENCE, min_size=1, max_size=4).map(tuple)


@given(CAPTION)
def test_split_sentences_inverts_join_sentences(sentences: tuple[str, ...]) -> None:
    assert split_sentences(join_sentences(sentences)) == sentences


@pytest.mark.parametrize("caption", ["", ".", " . "])
def test_split_sentences_of_an_empty_caption_is_one_sentence(caption: str) -> None:
    assert split_sentences(caption) == (caption.strip(),)


@given(CAPTION, st.integers(0, 2**32))
def test_choose_text_returns_a_prefix_or_a_sentence(sentences: tuple[str, ...], seed: int) -> None:
    caption, rng = join_sentences(sentences), np.random.default_rng(seed)
    prefixes = {join_sentences(sentences[:k]) for k in range(1, len(sentences) + 1)}
    assert choose_text(caption, "long", rng) == caption
    assert choose_text(caption, "prefix", rng) in prefixes
    assert choose_text(caption, "sentence", rng) in {join_sentences((sentence,)) for sentence in sentences}


def test_choose_text_draws_every_prefix_equally() -> None:
    rng = np.random.default_rng(0)
    lengths = [len(split_sentences(choose_text("a. b. c.", "prefix", rng))) for _ in range(900)]
    assert all(250 < lengths.count(k) < 350 for k in (1, 2, 3))


def test_choose_caption_draws_each_of_the_first_captions_equally() -> None:
    rng, captions = np.random.default_rng(0), ("one", "two", "three", "four")
    drawn = [choose_caption(captions, 3, rng) for _ in range(900)]
    assert set(drawn) == {"one", "two", "three"}
    assert all(250 < drawn.count(caption) < 350 for caption in captions[:3])
    assert {choose_caption(captions, limit, rng) for limit in (None, 9) for _ in range(100)} == set(captions)


@pytest.mark.parametrize(("captions", "limit"), [(("one",), None), (("one",), 3), (("one", "two"), 1)])
def test_choose_caption_uses_no_random_number_for_a_single_choice(
    captions: tuple[str, ...], limit: int | None
) -> None:
    rng, unused = np.random.default_rng(0), np.random.default_rng(0)
    assert choose_caption(captions, limit, rng) == "one"
    assert rng.random() == unused.random()


def test_long_and_short_of_single_sentences_is_one_test() -> None:
    (test,) = long_and_short([("One",), ("Two.",)], np.array([1, 0]), suffix="-x")
    assert (test.name, test.texts, test.owner.tolist()) == ("short-x", ("Two.", "One"), [0, 1])


@given(st.lists(st.lists(SENTENCE, max_size=3).map(tuple), max_size=6), st.data())
def test_drop_rows_equals_a_test_built_without_them(
    texts: list[tuple[str, ...]], data: st.DataObject
) -> None:
    rows = np.arange(len(texts)) + 10
    by_row = [()] * 10 + texts
    relevant = np.array(
        data.draw(
            st.lists(
                st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)), min_size=20, max_size=20
            )
        )
    )
    whole, owner = all_captions(by_row, rows)
    relevant = relevant.reshape(20, len(rows))[: len(whole)]
    dropped = np.array(sorted(data.draw(st.sets(st.sampled_from(range(10, 17))))), np.int64)
    test = drop_rows(CaptionTest("long", rows, whole, owner, csr_array(relevant)), dropped)
    kept = rows[~np.isin(rows, dropped)]
    assert np.array_equal(test.rows, kept)
    expected, expected_owner = all_captions(by_row, kept)
    assert test.texts == expected and np.array_equal(test.owner, expected_owner)
    columns = np.isin(rows, kept)
    assert test.relevant is not None
    assert np.array_equal(test.relevant.toarray(), relevant[columns[owner]][:, columns])


@given(st.lists(st.tuples(st.integers(0, 5), st.text(max_size=5)), max_size=30))
def test_caption_buffer_equals_lists_of_captions(added: list[tuple[int, str]]) -> None:
    buffer = CaptionBuffer()
    expected: list[list[str]] = [[] for _ in range(max([row for row, _ in added], default=-1) + 1)]
    for row, text in added:
        buffer.add(row, text)
        expected[row].append(text)
    assert [list(captions) for captions in buffer] == expected
    assert buffer[: len(buffer)] == [tuple(captions) for captions in expected]
    with pytest.raises(IndexError):
        buffer[len(buffer)]


def test_caption_buffer_digest_covers_texts_and_their_rows() -> None:
    def digest(*added: tuple[int, str]) -> str:
        buffer = CaptionBuffer()
        for row, text in added:
            buffer.add(row, text)
        return buffer.digest()

    digests = {
        digest((0, "ab"), (1, "c")),
        digest((0, "a"), (1, "bc")),
        digest((0, "ab"), (0, "c")),
        digest((1, "ab"), (0, "c")),
    }
    assert len(digests) == 4 and all(len(value) == len(hashlib.sha256().hexdigest()) for value in digests)
