"""Images with captions: what a caption data set has to offer, and how captions are cut into sentences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array

from ...core.types import CaptionSource, CaptionTest, CaptionUse, Source

STOP = ". "  # the published separator of sentences (SmartCLIP and Long-CLIP)


def captions_only(source: Source) -> bool:
    """Whether a data set has captions and no classes to tell apart."""
    return isinstance(source, CaptionSource) and len(source.class_names) < 2


def without(test: CaptionTest, gone: np.ndarray) -> CaptionTest:
    """The test without some rows of the source and their captions."""
    kept = np.flatnonzero(~np.isin(test.rows, gone))
    if len(kept) == len(test.rows):
        return test
    texts = np.flatnonzero(np.isin(test.owner, kept))
    position = np.full(len(test.rows), -1)
    position[kept] = np.arange(len(kept))
    return CaptionTest(
        test.name,
        test.rows[kept],
        tuple(test.texts[i] for i in texts),
        position[test.owner[texts]],
        None if test.relevant is None else csr_array(test.relevant[texts][:, kept]),
    )


def sentences_of(caption: str) -> tuple[str, ...]:
    """Sentences without their stops: split at ". " as published, empty ones dropped.

    A caption without any is one sentence.
    """
    found = tuple(
        sentence for part in caption.split(STOP) if (sentence := part.strip().removesuffix(".").strip())
    )
    return found or (caption.strip(),)


def joined(sentences: Sequence[str]) -> str:
    """The inverse of `sentences_of`: "a. b."."""
    return STOP.join(sentences) + "."


def choose(caption: str, use: CaptionUse, rng: np.random.Generator) -> str:
    """The text that a training step shows of a caption.

    Args:
        caption: one or more sentences.
        use: "long" for all of it; "prefix" for its first K sentences, K uniform in 1 ... number of sentences
            (SmartCLIP); "sentence" for one of them.
        rng: draws K or the sentence.
    """
    sentences = sentences_of(caption)
    if use == "long" or len(sentences) == 1:
        return caption
    if use == "prefix":
        return joined(sentences[: int(rng.integers(1, len(sentences) + 1))])
    return joined((sentences[int(rng.integers(len(sentences)))],))


def long_and_short(
    texts: Sequence[tuple[str, ...]], rows: np.ndarray, suffix: str = ""
) -> tuple[CaptionTest, ...]:
    """Tests "long" (whole captions) and "short" (the first sentence of each); "short" alone where no caption
    has a second sentence.

    Args:
        texts: row -> captions.
        rows: images of the tests.
        suffix: added to both names.
    """
    whole, owner = every_caption(texts, rows)
    first = tuple(sentences_of(text)[0] for text in whole)
    short = CaptionTest(f"short{suffix}", rows, tuple(f"{text}." for text in first), owner)
    if all(len(sentences_of(text)) == 1 for text in whole):
        return (CaptionTest(f"short{suffix}", rows, whole, owner),)
    return (CaptionTest(f"long{suffix}", rows, whole, owner), short)


def every_caption(texts: Sequence[tuple[str, ...]], rows: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """All captions of some rows as they stand, and the position in `rows` that each belongs to: T texts, [T]."""
    captions = [(i, text) for i, row in enumerate(rows.tolist()) for text in texts[row]]
    return tuple(text for _, text in captions), np.array([i for i, _ in captions], np.int64)
