"""Pictoscenes: composed scenes of Pictograms with captions by a grammar, of which every truth is known.

The unit of every split is the drawing and the pair of concepts: test scenes are made of drawings that no other part
shows, in combinations that never stand together in training, and once more in a style that no other part has.
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
from ..captions.sentences import joined, long_and_short
from .compose import MIN_CONTRAST
from .pictograms import ANGLE, FAMILY_SHARES, Pictograms
from .scene_grammar import Grammar
from .scene_layout import HELD_OUT, OBJECTS, PARTS, SCALES, SEED, STAGES, STYLE, Composition, Layout, Part
from .scene_pixels import draw
from .scene_truth import Truth, describe

SIZE = 96  # pixels a side where nobody asks for another
REMEMBERED = 640 << 20  # bytes of pictures kept in memory: those of all rows at 96 pixels
COUNTS: dict[Part, int] = {"train": 20_000, "validation": 500, "test": 1000, "style": 1000}


@dataclass(frozen=True)
class Sentence:
    """A sentence and what it speaks of: the position of an object, or None for the background."""

    text: str
    thing: int | None


@dataclass(frozen=True)
class AnnotatedScene:
    """One scene, for pictures and explanations.

    Attributes:
        image: [3, S, S] in [0, 1].
        sentences: of the caption, in its order.
        names: of the objects.
        masks: [objects, S, S], the share of each pixel that shows the object.
        scene: what was composed, with the facts.
    """

    image: Tensor
    sentences: tuple[Sentence, ...]
    names: tuple[str, ...]
    masks: Tensor
    scene: Composition


class Pictoscenes(CaptionSource):
    """The data set as a `CaptionSource`: one row per scene; validation, test and held-out style before training.

    Scenes and captions are fixed: they depend on the row's number in its part alone, and a training view is
    the scene itself, whatever the draw. Nothing is composed or written before it is asked for.

    Args:
        train_rows: number of training scenes; fewer are the first of more.

    Raises:
        UserError: `train_rows` is not a positive whole number.
    """

    name = "pictoscenes"
    templates: tuple[str, ...] = ("a picture of a {}.",)
    class_names: tuple[str, ...] = ("scene",)  # rows have captions and no classes
    size = SIZE

    def __init__(self, train_rows: int = COUNTS["train"]) -> None:
        if not isinstance(train_rows, int) or train_rows < 1:
            raise UserError(f"train_rows: {train_rows} is not a number of scenes")
        self.pictograms = Pictograms()
        self.domain_names = self.pictograms.domain_names
        self.layout, self.grammar = Layout(self.pictograms), Grammar(self.pictograms.class_names)
        counts = COUNTS | {"train": train_rows}
        # Training comes last: the rows of the tests are the same whatever its number.
        self._order: tuple[Part, ...] = (*(part for part in PARTS if part != "train"), "train")
        ends = np.cumsum([counts[part] for part in self._order])
        self._first = {part: int(end) - counts[part] for part, end in zip(self._order, ends, strict=True)}
        every = {part: np.arange(counts[part]) + self._first[part] for part in self._order}
        self.style_rows = every["style"]
        self.parts = {
            "train": every["train"],
            "validation": every["validation"],
            "test": np.concatenate([every["test"], every["style"]]),
        }
        self.domains = np.concatenate(
            [self.layout.style(np.arange(counts[part]), part) for part in self._order]
        )
        self.labels = np.zeros(int(ends[-1]), np.int64)
        self.texts = _Texts(self)
        self._scenes: dict[int, Composition] = {}
        self._sentences: dict[int, tuple[Sentence, ...]] = {}
        self._pictures: dict[tuple[int, int], Tensor] = {}

    def part_of(self, row: int) -> Part:
        """ "style" for the scenes of the held-out style, which `parts` counts to the test."""
        return next(part for part in reversed(self._order) if row >= self._first[part])

    def scene(self, row: int) -> Composition:
        """What stands in a scene, and what is true of it."""
        if row not in self._scenes:
            part = self.part_of(row)
            self._scenes[row] = self.layout.compose(part, row - self._first[part])
        return self._scenes[row]

    def sentences(self, row: int) -> tuple[Sentence, ...]:
        """The sentences of a row's caption: one for each object, one for the background, shuffled."""
        if row not in self._sentences:
            part = self.part_of(row)
            rng = np.random.default_rng([SEED, 2, PARTS.index(part), row - self._first[part]])
            self._sentences[row] = tuple(
                Sentence(self.grammar.say(claim, rng), thing)
                for claim, thing in describe(self.scene(row).facts, rng)
            )
        return self._sentences[row]

    def caption(self, row: int) -> str:
        """The long caption: all sentences."""
        return joined([sentence.text for sentence in self.sentences(row)])

    def images(
        self, rows: np.ndarray, stage: Stage, draws: np.ndarray, seed: int, preprocess: Preprocess
    ) -> Tensor:
        """Scenes rendered at the asked size (see `Source.images`); stage, draws and seed move nothing."""
        return preprocess.fit(self._remembered(rows, max(preprocess.size)).float() / 255)

    def sample(self, row: int, size: int = SIZE) -> AnnotatedScene:
        """One scene with its sentences and exact masks; the pixels of `images` before normalising."""
        images, masks = self._draw(np.array([row]), size)
        scene = self.scene(row)
        names = tuple(self.pictograms.class_names[thing.concept] for thing in scene.facts.things)
        return AnnotatedScene(images[0].float() / 255, self.sentences(row), names, masks[0], scene)

    def relevance(self, texts: Sequence[str], rows: np.ndarray) -> csr_array:
        """[T, n] sparse bool: whether all sentences of a text are true of a row's scene.

        Raises:
            UserError: a sentence that is not of the grammar.
        """
        facts = [self.scene(row).facts for row in rows.tolist()]
        return Truth(facts, len(self.pictograms.class_names)).relevance(texts, self.grammar)

    def false_negatives(self, texts: Sequence[str], rows: np.ndarray) -> int:
        """Pairs of a batch that a contrastive loss takes for negatives though the text is true of the image.

        Args:
            texts: [B], text i shown with image i.
            rows: [B] images; a row that comes twice counts, as the loss does not know of it either.

        Returns:
            A number of the B (B - 1) pairs of text i and image j, i not j.
        """
        if len(texts) != len(rows):
            raise ValueError(f"{len(texts)} texts for {len(rows)} rows")
        relevant = self.relevance(texts, rows)
        return int(relevant.nnz - relevant.diagonal().sum())

    def caption_tests(self, part: Literal["validation", "test"]) -> tuple[CaptionTest, ...]:
        """ "long" and "short" (a caption's first sentence); of the test also in the held-out style."""
        rows = self.parts[part][: COUNTS[part]]
        tests = self._long_and_short(rows)
        return tests if part == "validation" else tests + self._long_and_short(self.style_rows, f"-{STYLE}")

    def fingerprint(self) -> str:
        """Hash of the shipped art, the settings, and some captions of each part."""
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

    def _remembered(self, rows: np.ndarray, size: int) -> Tensor:
        """[n, 3, size, size] uint8. Scenes are fixed and epochs many: each is drawn once, while memory lasts."""
        missing = np.array([row for row in np.unique(rows) if (int(row), size) not in self._pictures], int)
        drawn = dict(zip(missing.tolist(), self._draw(missing, size)[0], strict=True)) if len(missing) else {}
        pictures = [
            drawn[row] if row in drawn else self._pictures[row, size] for row in map(int, rows.tolist())
        ]
        room = REMEMBERED // (3 * size * size) - len(self._pictures)
        # A copy each: a view would keep the whole batch that it was drawn in.
        self._pictures |= {(row, size): drawn[row].clone() for row in missing.tolist()[: max(0, room)]}
        return torch.stack(pictures)

    def _draw(self, rows: np.ndarray, size: int) -> tuple[Tensor, list[Tensor]]:
        """Pictures [n, 3, size, size] uint8, and masks."""
        clutters = [self.pictograms.clutter[STAGES[self.part_of(row)]] for row in rows.tolist()]
        scenes = [self.scene(row) for row in rows.tolist()]
        images, masks = draw(scenes, self.pictograms.sprites, clutters, size)
        return (images * 255).round().to(torch.uint8), masks


class _Texts(Sequence[tuple[str, ...]]):
    """Row -> its one caption, written when it is asked for."""

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
