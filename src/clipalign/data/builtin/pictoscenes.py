"""Pictoscenes: scenes of several Pictograms drawings, with captions by a grammar that decides which images they fit.

Splits keep drawings and pairs of concepts apart. Test scenes use drawings of no other part, in combinations that never
occur in training; the held-out style repeats the test with drawings of a style that no other part uses.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, overload

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from ...core.errors import UserError
from ...core.types import CaptionSource, CaptionTest, Preprocess, Stage
from ..captions.sentences import join_sentences, long_and_short
from ..request import SHIPPED, NamedSource
from .compose import MIN_CONTRAST
from .pictograms import ANGLE, FAMILY_SHARES, Pictograms
from .scene_grammar import Grammar
from .scene_layout import HELD_OUT, OBJECTS, PARTS, SCALES, SEED, STAGES, STYLE, Composition, Layout, Part
from .scene_pixels import draw
from .scene_truth import Truth, describe

SIZE = 96  # default side of an image in pixels
CACHE_BYTES = 640 << 20  # images of all rows at 96 pixels
COUNTS: dict[Part, int] = {"train": 20_000, "validation": 500, "test": 1000, "style": 1000}


@dataclass(frozen=True)
class Sentence:
    """A sentence, and the position of the object that it describes (None: the background)."""

    text: str
    thing: int | None


@dataclass(frozen=True)
class AnnotatedScene:
    """One scene with everything known about it, for figures and explanations.

    Attributes:
        image: [3, S, S] in [0, 1].
        sentences: the sentences of the caption, in order.
        names: concept names of the objects.
        masks: [objects, S, S], share of each pixel that shows the object.
        scene: facts and drawings of the scene.
    """

    image: Tensor
    sentences: tuple[Sentence, ...]
    names: tuple[str, ...]
    masks: Tensor
    scene: Composition


class Pictoscenes(CaptionSource):
    """The Pictoscenes data set: one row per scene; validation, test and held-out style come before training.

    Scenes and captions depend on the number of the row within its part only, and training views are the scenes
    themselves. Both are made on demand.

    Args:
        train_rows: number of training scenes; a smaller set is the beginning of a larger one.

    Raises:
        UserError: `train_rows` is not a positive integer.
    """

    name = "pictoscenes"
    templates = ("a picture of a {}.",)
    class_names = ("scene",)  # captions, no classes
    size = SIZE

    def __init__(self, train_rows: int = COUNTS["train"]) -> None:
        if not isinstance(train_rows, int) or train_rows < 1:
            raise UserError(f"--data-options: train_rows={train_rows} is not a positive integer")
        self.pictograms = Pictograms()
        self.domain_names = self.pictograms.domain_names
        self.layout, self.grammar = Layout(self.pictograms), Grammar(self.pictograms.class_names)
        counts = COUNTS | {"train": train_rows}
        # Training comes last, so that its size does not change the rows of the tests.
        self._order: tuple[Part, ...] = (*(part for part in PARTS if part != "train"), "train")
        ends = np.cumsum([counts[part] for part in self._order])
        self._first = {part: int(end) - counts[part] for part, end in zip(self._order, ends, strict=True)}
        rows_of = {part: np.arange(counts[part]) + self._first[part] for part in self._order}
        self.style_rows = rows_of["style"]
        self.parts = {
            "train": rows_of["train"],
            "validation": rows_of["validation"],
            "test": np.concatenate([rows_of["test"], rows_of["style"]]),
        }
        styles = [self.layout.style(np.arange(counts[part]), part) for part in self._order]
        self.domains = np.concatenate(styles)  # [N]
        self.labels = np.zeros(int(ends[-1]), np.int64)  # [N]
        self.texts = _Texts(self)
        self._scenes: dict[int, Composition] = {}
        self._sentences: dict[int, tuple[Sentence, ...]] = {}
        self._pixels: dict[tuple[int, int], Tensor] = {}  # (row, size) -> [3, size, size] uint8

    def part_of(self, row: int) -> Part:
        """Return the part of a row; "style" for scenes of the held-out style, which `parts` adds to the test."""
        return next(part for part in reversed(self._order) if row >= self._first[part])

    def scene(self, row: int) -> Composition:
        """Return the composition of a row."""
        if row not in self._scenes:
            part = self.part_of(row)
            self._scenes[row] = self.layout.compose(part, row - self._first[part])
        return self._scenes[row]

    def sentences(self, row: int) -> tuple[Sentence, ...]:
        """Return the sentences of a row's caption: one per object and one on the background, in random order."""
        if row not in self._sentences:
            part = self.part_of(row)
            rng = np.random.default_rng([SEED, 2, PARTS.index(part), row - self._first[part]])
            self._sentences[row] = tuple(
                Sentence(self.grammar.say(claim, rng), thing)
                for claim, thing in describe(self.scene(row).facts, rng)
            )
        return self._sentences[row]

    def caption(self, row: int) -> str:
        """Return the caption of a row: all its sentences."""
        return join_sentences([sentence.text for sentence in self.sentences(row)])

    def images(
        self, rows: np.ndarray, stage: Stage, draws: np.ndarray, seed: int, preprocess: Preprocess
    ) -> Tensor:
        """Render rows at the requested size; `stage`, `draws` and `seed` have no effect. See `Source.images`."""
        return preprocess.fit(self._render_cached(rows, max(preprocess.size)).float() / 255)

    def sample(self, row: int, size: int = SIZE) -> AnnotatedScene:
        """Return one scene with its sentences and masks; the image is the one that `images` normalises."""
        images, masks = self._render(np.array([row]), size)
        scene = self.scene(row)
        names = tuple(self.pictograms.class_names[thing.concept] for thing in scene.facts.things)
        return AnnotatedScene(images[0].float() / 255, self.sentences(row), names, masks[0], scene)

    def relevance(self, texts: Sequence[str], rows: np.ndarray) -> csr_array:
        """Return whether all sentences of a text are true of a row's scene: [T, n] sparse bool.

        Raises:
            UserError: a sentence that the grammar does not generate.
        """
        facts = [self.scene(row).facts for row in rows.tolist()]
        return Truth(facts, len(self.pictograms.class_names)).relevance(texts, self.grammar)

    def false_negatives(self, texts: Sequence[str], rows: np.ndarray) -> int:
        """Count the off-diagonal pairs of a batch whose text is true of the image; see `CaptionSource`.

        A row that occurs twice counts, since the loss does not know that either.
        """
        if len(texts) != len(rows):
            raise ValueError(f"{len(texts)} texts for {len(rows)} rows")
        relevant = self.relevance(texts, rows)  # [B, B]
        return int(relevant.nnz - relevant.diagonal().sum())

    def caption_tests(self, part: Literal["validation", "test"]) -> tuple[CaptionTest, ...]:
        """Return "long" and "short" (the first sentence of each caption); for the test also in the held-out style."""
        rows = self.parts[part][: COUNTS[part]]
        tests = self._long_and_short(rows)
        return tests if part == "validation" else tests + self._long_and_short(self.style_rows, f"-{STYLE}")

    def fingerprint(self) -> str:
        """Return a hash of the shipped drawings, the settings, and some captions of each part."""
        settings = [len(self), SEED, OBJECTS, SCALES, HELD_OUT, STYLE, MIN_CONTRAST, ANGLE, FAMILY_SHARES]
        first = [
            (self.caption(first + i), repr(self.scene(first + i)))
            for first in self._first.values()
            for i in range(0, min(8, len(self) - first))
        ]
        text = json.dumps([self.pictograms.fingerprint(), settings, first])
        return hashlib.sha256(text.encode()).hexdigest()

    def _long_and_short(self, rows: np.ndarray, suffix: str = "") -> tuple[CaptionTest, ...]:
        return tuple(
            CaptionTest(test.name, test.rows, test.texts, test.owner, self.relevance(test.texts, test.rows))
            for test in long_and_short(self.texts, rows, suffix)
        )

    def _render_cached(self, rows: np.ndarray, size: int) -> Tensor:
        """Return [n, 3, size, size] uint8. Scenes are fixed, so each is rendered once while the cache has room."""
        missing = np.array([row for row in np.unique(rows) if (int(row), size) not in self._pixels], int)
        rendered = (
            dict(zip(missing.tolist(), self._render(missing, size)[0], strict=True)) if len(missing) else {}
        )
        images = [
            rendered[row] if row in rendered else self._pixels[row, size] for row in map(int, rows.tolist())
        ]
        room = CACHE_BYTES // (3 * size * size) - len(self._pixels)
        # Copies, since a view would keep the whole rendered batch in memory.
        self._pixels |= {(row, size): rendered[row].clone() for row in missing.tolist()[: max(0, room)]}
        return torch.stack(images)  # [n, 3, size, size]

    def _render(self, rows: np.ndarray, size: int) -> tuple[Tensor, list[Tensor]]:
        """Return images [n, 3, size, size] uint8, and the masks of each."""
        clutters = [self.pictograms.clutter[STAGES[self.part_of(row)]] for row in rows.tolist()]
        scenes = [self.scene(row) for row in rows.tolist()]
        images, masks = draw(scenes, self.pictograms.sprites, clutters, size)
        return (images * 255).round().to(torch.uint8), masks


class _Texts(Sequence[tuple[str, ...]]):
    """Row -> its only caption, generated on demand."""

    def __init__(self, source: Pictoscenes) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    @overload
    def __getitem__(self, row: int) -> tuple[str, ...]: ...
    @overload
    def __getitem__(self, row: slice) -> tuple[tuple[str, ...], ...]: ...
    def __getitem__(self, row: int | slice) -> tuple[str, ...] | tuple[tuple[str, ...], ...]:
        if isinstance(row, slice):
            return tuple(self[i] for i in range(*row.indices(len(self))))
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        return (self._source.caption(int(row) % len(self)),)


PICTOSCENES = NamedSource(
    "scenes of several pictograms; for each caption, all images that it is true of are known (built in)",
    lambda request: Pictoscenes(**request.settings),
    title="pictoscenes",
    licence=SHIPPED,
    settings=("train_rows",),
)
