"""Print the numbers of docs/pictoscenes.md: python tools/measure_pictoscenes.py"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import open_clip

from clipalign.backbone.text.tokens import tokenize
from clipalign.core.types import CaptionUse
from clipalign.data.builtin.compose import MIN_CONTRAST, contrast
from clipalign.data.builtin.pictoscenes import SIZE, Pictoscenes
from clipalign.data.builtin.scene_grammar import ObjectClaim
from clipalign.data.builtin.scene_pixels import draw_background, layers
from clipalign.data.captions.sentences import choose_text, split_sentences


def spread(values: Sequence[int]) -> str:
    """Format minimum, mean and maximum."""
    return f"{min(values)} / {np.mean(values):.1f} / {max(values)}"


def lengths(source: Pictoscenes, name: str, rows: np.ndarray) -> None:
    """Print the number of sentences, words and tokens of the captions of rows."""
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    captions = [source.caption(row) for row in rows.tolist()]
    sentences = [split_sentences(caption) for caption in captions]
    tokens = tokenize(tokenizer, captions).lengths
    short = tokenize(tokenizer, [first[0] for first in sentences]).lengths
    print(
        f"{name}: {len(rows)} rows; sentences {spread([len(s) for s in sentences])}; "
        f"words {spread([len(c.split()) for c in captions])}; tokens {spread(tokens)}, "
        f"{sum(n > 77 for n in tokens)} above 77; short {spread(short)}"
    )


def truths(source: Pictoscenes) -> None:
    """Print how many other test images each text is true of."""
    for test in source.caption_tests("test"):
        assert test.relevant is not None
        others = np.diff(test.relevant.indptr) - 1
        of_object = np.array([isinstance(source.grammar.claims(t)[0], ObjectClaim) for t in test.texts])
        print(
            f"{test.name}: other images {others.mean():.3f}, texts with any {(others > 0).mean():.1%}; first "
            f"sentence of an object {others[of_object].mean():.1f}, of the background "
            f"{others[~of_object].mean():.1f} ({(~of_object).mean():.1%})"
        )


def false_negatives(source: Pictoscenes, use: CaptionUse, batch: int, batches: int = 20) -> None:
    """Print the mean number of false negatives in a batch of training scenes, drawn with replacement."""
    rng = np.random.default_rng(batch)
    counts = []
    for _ in range(batches):
        rows = rng.choice(source.parts["train"], batch)
        texts = [choose_text(source.caption(row), use, rng) for row in rows.tolist()]
        counts.append(source.false_negatives(texts, rows))
    print(
        f"batch {batch}, {use}: {np.mean(counts):.1f}, {np.mean(counts) / (batch * (batch - 1)):.3%} of pairs"
    )


def contrasts(source: Pictoscenes, scenes: int = 500) -> None:
    """Print the number of objects whose contrast with their background is below `MIN_CONTRAST`."""
    weak, total = 0, 0
    for row in source.parts["train"][:scenes].tolist():
        scene = source.scene(row)
        drawn = layers(scene.objects, source.pictograms.sprites, SIZE)
        back = draw_background(scene, drawn, source.pictograms.clutter["train"], SIZE)
        for window, layer in drawn:
            (ys, xs), (from_ys, from_xs) = window.overlap(SIZE)
            gap = contrast(back[None, :, ys, xs], layer[None, :, from_ys, from_xs])
            weak, total = weak + int(float(gap) < MIN_CONTRAST), total + 1
    print(f"objects with a contrast below {MIN_CONTRAST}: {weak} of {total}")


def main() -> None:
    source = Pictoscenes()
    lengths(source, "train", source.parts["train"])
    lengths(source, "validation", source.parts["validation"])
    lengths(source, "test", np.setdiff1d(source.parts["test"], source.style_rows))
    lengths(source, "test, held-out style", source.style_rows)
    truths(source)
    uses: tuple[CaptionUse, ...] = ("long", "prefix", "sentence")
    for batch in (64, 256, 1024):
        for use in uses:
            false_negatives(source, use, batch)
    contrasts(source)


if __name__ == "__main__":
    main()
