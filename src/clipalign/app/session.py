"""Models, photos and results of one server: everything that the page computes, cached and one call at a time."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from ..backbone.text.features import fill_templates
from ..core.errors import UserError
from ..evaluation.maps import TracedImages, trace
from ..explain.masks import mask_figure, view_masks
from ..methods import SupportsMasks
from ..methods.base import Classifier
from . import alpha, looks
from .answers import Answer, classify, make_classifier, top
from .inputs import Photo, read_photo
from .models import PageModel

TOP = 5  # names of an answer
COLUMNS = 6  # texts whose maps are drawn side by side
PHOTO = "photo"  # instead of a model's title: the picture without a map


@dataclass(frozen=True)
class MapView:
    """Choice of maps: the arguments of `looks.text_maps`."""

    structure: str = "dv"
    layer: str = looks.PUBLISHED
    distinct: bool = False


@dataclass(frozen=True)
class MapRow:
    """The maps of one model: one picture [H, W, 3] uint8 per text."""

    title: str
    pictures: tuple[np.ndarray, ...]


class Session:
    """What the page shows of some models.

    Hooks and interpolated weights change a model while it runs, so calls wait for each other. Photos are named by their
    files, which the server stores under a hash of their contents.

    Args:
        models: models from left to right.
    """

    def __init__(self, models: Sequence[PageModel]) -> None:
        self.models = tuple(models)
        self.by_title = {model.title: model for model in models}
        self.reasons = {model.title: alpha.why_not(model) for model in models}
        self.mask_models = [model for model in models if isinstance(model.method, SupportsMasks)]
        self._lock = threading.RLock()
        self.photo = lru_cache(8)(self._photo)
        self._classifier = lru_cache(64)(self._make_classifier)
        self._trace = lru_cache(2 * len(self.models))(self._make_trace)
        self._maps = lru_cache(64)(self._make_maps)
        self._path = lru_cache(4)(self._make_path)

    @property
    def paths(self) -> list[str]:
        """Titles of the models with weights between zero-shot and fine-tuned."""
        return [title for title, reason in self.reasons.items() if not reason]

    @property
    def layers(self) -> list[str]:
        """Layers that all models have, as `looks.layer_choices`."""
        return min((looks.layer_choices(model) for model in self.models), key=len)

    @property
    def structures(self) -> dict[str, str]:
        """Names and labels of the maps that all models have."""
        backbones = [model.method.backbone for model in self.models]
        return {
            name: label
            for name, label in looks.STRUCTURES.items()
            if name not in looks.DENSE or all(backbone.has_structure(name) for backbone in backbones)
        }

    def answers(self, path: str, names: tuple[str, ...]) -> list[Answer]:
        """Return the answer of every model."""
        photo, answers = self.photo(path), []
        for model in self.models:
            with self._lock:
                classifier = self._classifier(model.title, names)
                if isinstance(classifier, str):
                    answers.append(Answer(model.title, problem=classifier))
                    continue
                view = photo.views[model.preprocess].to(model.method.backbone.device)
                answers.append(top(model.title, names, classify(classifier, view), TOP))
        return answers

    def cut(self, names: tuple[str, ...]) -> int:
        """Return the number of names whose prompts exceed the text window of a model."""
        counts = []
        for method in (model.method for model in self.models):
            prompts = fill_templates(names, method.templates[:1], method.backbone.names)  # C lists of one
            counts.append(method.backbone.tokenize([prompt for (prompt,) in prompts]).num_truncated)
        return max(counts)

    def picture(self, path: str, title: str, names: tuple[str, ...], text: str, view: MapView) -> np.ndarray:
        """Return the map of one text over the photo, or the photo itself for `PHOTO`: [H, W, 3] uint8."""
        photo = self.photo(path)
        if title == PHOTO:
            return looks.to_bytes(photo.visible)
        maps = self._maps(path, title, names, view)  # [T, gh, gw]
        return looks.draw(photo.visible, maps[names.index(text)])

    def map_rows(
        self, path: str, names: tuple[str, ...], shown: Sequence[str], view: MapView
    ) -> list[MapRow]:
        """Return the maps of every model for some of the names."""
        return [
            MapRow(
                model.title,
                tuple(self.picture(path, model.title, names, text, view) for text in shown),
            )
            for model in self.models
        ]

    def along(self, path: str, title: str, names: tuple[str, ...]) -> Tensor:
        """Return the probabilities of C names at every alpha of `alpha.ALPHAS`, [A, C].

        Raises:
            UserError: the model has no weights between zero-shot and fine-tuned.
        """
        photo = self.photo(path)
        if reason := self.reasons[title]:
            raise UserError(f"{title}: {reason}")
        with self._lock:
            return self._path(title).probabilities(photo.views[self.by_title[title].preprocess], names)

    def masks(self, title: str, captions: tuple[str, ...]) -> Figure:
        """Return a figure of the dimensions that captions open in a model with masks."""
        with self._lock:
            return mask_figure(view_masks(self.by_title[title].method, captions))

    def _photo(self, path: str) -> Photo:
        return read_photo(path, dict.fromkeys(model.preprocess for model in self.models))

    def _make_classifier(self, title: str, names: tuple[str, ...]) -> Classifier | str:
        return make_classifier(self.by_title[title], names)

    def _make_trace(self, path: str, title: str) -> TracedImages:
        model = self.by_title[title]
        return trace(model.method, self.photo(path).views[model.preprocess])

    def _make_maps(self, path: str, title: str, names: tuple[str, ...], view: MapView) -> Tensor:
        with self._lock:
            traced = self._trace(path, title)
            return looks.text_maps(traced, names, view.structure, view.layer, distinct=view.distinct)

    def _make_path(self, title: str) -> alpha.WeightPath:
        return alpha.WeightPath(self.by_title[title])
