"""Split captions into sentences, choose the text of a training step, and build retrieval tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array

from ...core.types import CaptionSource, CaptionTest, CaptionUse, Source

STOP = ". "  # published separator of sentences (Long-CLIP, SmartCLIP)


def captions_only(source: Source) -> bool:
    """Return whether a source has captions and no classes to distinguish."""
    return isinstance(source, CaptionSource) and len(source.class_names) < 2


def split_sentences(caption: str) -> tuple[str, ...]:
    """Split a caption at ". " into sentences without full stops; empty sentences are dropped.

    A caption without any sentence counts as one.

    >>> split_sentences("A bee. It is small.")
    ('A bee', 'It is small')
    """
    found = tuple(
        sentence for part in caption.split(STOP) if (sentence := part.strip().removesuffix(".").strip())
    )
    return found or (caption.strip(),)


def first_sentence(caption: str) -> str:
    """Return the short caption of Long-CLIP's code: everything before the first ". ".

    >>> first_sentence("A bee. It is small."), first_sentence("A bee.")
    ('A bee', 'A bee.')
    """
    return next((part for part in caption.split(STOP) if part.strip()), caption).strip()


def join_sentences(sentences: Sequence[str]) -> str:
    """Join sentences to a caption; the inverse of `split_sentences`.

    >>> join_sentences(("A bee", "It is small"))
    'A bee. It is small.'
    """
    return STOP.join(sentences) + "."


def choose_caption(captions: Sequence[str], limit: int | None, rng: np.random.Generator) -> str:
    """Draw one of the first `limit` captions of an image, uniformly.

    Args:
        captions: of the image, at least one.
        limit: captions to draw from; None for all.
        rng: draws the caption; unused if there is only one to draw, so that images with one caption have the same
            texts under any limit.
    """
    count = len(captions) if limit is None else min(limit, len(captions))
    return captions[0] if count == 1 else captions[int(rng.integers(count))]


def choose_text(caption: str, use: CaptionUse, rng: np.random.Generator) -> str:
    """Return the part of a caption that a training step uses.

    Args:
        caption: one or more sentences.
        use: "long" for the whole caption; "prefix" for its first K sentences, K uniform in 1 ... number of sentences
            (SmartCLIP); "sentence" for one sentence at random.
        rng: draws K or the sentence.
    """
    sentences = split_sentences(caption)
    if use == "long" or len(sentences) == 1:
        return caption
    if use == "prefix":
        return join_sentences(sentences[: int(rng.integers(1, len(sentences) + 1))])
    return join_sentences((sentences[int(rng.integers(len(sentences)))],))


def long_and_short(
    texts: Sequence[tuple[str, ...]], rows: np.ndarray, suffix: str = ""
) -> tuple[CaptionTest, ...]:
    """Build the tests "long" (whole captions) and "short" (the first sentence of each).

    If every caption is a single sentence, the only test is "short".

    Args:
        texts: row -> captions.
        rows: [n] int64, images of the tests.
        suffix: added to both names.
    """
    whole, owner = all_captions(texts, rows)
    sentences = [split_sentences(text) for text in whole]
    if all(len(parts) == 1 for parts in sentences):
        return (CaptionTest(f"short{suffix}", rows, whole, owner),)
    first = tuple(join_sentences(parts[:1]) for parts in sentences)
    return (
        CaptionTest(f"long{suffix}", rows, whole, owner),
        CaptionTest(f"short{suffix}", rows, first, owner),
    )


def all_captions(texts: Sequence[tuple[str, ...]], rows: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """Return all T captions of some rows, and the position in `rows` that each belongs to: [T] int64."""
    captions = [(i, text) for i, row in enumerate(rows.tolist()) for text in texts[row]]
    return tuple(text for _, text in captions), np.array([i for i, _ in captions], np.int64)


def drop_rows(test: CaptionTest, dropped: np.ndarray) -> CaptionTest:
    """Return a test without some rows of the source and without their captions."""
    kept = np.flatnonzero(~np.isin(test.rows, dropped))  # [k], positions in test.rows
    if len(kept) == len(test.rows):
        return test
    texts = np.flatnonzero(np.isin(test.owner, kept))  # [t], positions in test.texts
    position = np.full(len(test.rows), -1)  # old position of an image -> new one
    position[kept] = np.arange(len(kept))
    return CaptionTest(
        test.name,
        test.rows[kept],
        tuple(test.texts[i] for i in texts),
        position[test.owner[texts]],
        None if test.relevant is None else csr_array(test.relevant[texts][:, kept]),
    )
