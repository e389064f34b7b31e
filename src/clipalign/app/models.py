"""Models of the page: every named run with the backbone it started from, and every named backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..backbone import load, preprocess_for
from ..core.types import Preprocess
from ..methods import Method
from ..runs.opening import OpenedModel, open_model
from ..runs.run import zeroshot


@dataclass(frozen=True, eq=False)
class PageModel:
    """One model of the page.

    Attributes:
        title: unique name, the run's folder or the backbone.
        method: set up, ready to predict.
        preprocess: resizing and normalisation of its images.
        start: the backbone that a run started from, zero-shot with the run's templates; None for a backbone.
    """

    title: str
    method: Method
    preprocess: Preprocess
    start: PageModel | None = None

    @property
    def drawings_only(self) -> bool:
        """Whether the backbone is the pocket model, which was pre-trained on drawings."""
        return self.method.backbone.spec.startswith("pocket")


def open_models(
    names: Sequence[str | Path], device: torch.device | str = "cpu", cache_dir: str | None = None
) -> tuple[PageModel, ...]:
    """Open runs and backbones, each once, in the order given; the backbone of a run precedes it.

    Args:
        names: run folders, or backbones as in `clipalign train --backbone`.
        device: where the models go.
        cache_dir: folder of downloaded weights.

    Raises:
        UserError: a name that is neither a run nor a backbone, or a run without weights.
    """
    models: list[PageModel] = []
    for name in dict.fromkeys(str(name) for name in names):
        opened = open_model(name, device=device, cache_dir=cache_dir)
        if opened.run is None:
            start = _backbone(models, opened.method, opened)
        else:
            start = _start(models, opened, device, cache_dir)
            title = _unique(Path(name).resolve().name, name, models)
            preprocess = preprocess_for(opened.method.backbone, opened.interpolation)
            models.append(PageModel(title, opened.method, preprocess, start))
    return tuple(models)


def _start(
    models: list[PageModel], opened: OpenedModel, device: torch.device | str, cache_dir: str | None
) -> PageModel:
    """Return the zero-shot model that a run started from."""
    assert opened.run is not None
    options = opened.run.options.config.model
    backbone = load(options.backbone, device, cache_dir or options.cache_dir).configure(options)
    return _backbone(models, zeroshot(backbone, opened.method.templates), opened)


def _backbone(models: list[PageModel], method: Method, opened: OpenedModel) -> PageModel:
    """Return the equal zero-shot model among `models`, or append a new one."""
    backbone = method.backbone
    preprocess = preprocess_for(backbone, opened.interpolation)

    def settings(other: Method) -> tuple[object, ...]:
        return other.backbone.spec, other.backbone.names, other.backbone.pooling, tuple(other.templates)

    for model in models:
        same = model.start is None and settings(model.method) == settings(method)
        if same and model.preprocess == preprocess:
            return model
    title = f"{backbone.spec} zero-shot"
    model = PageModel(_unique(title, f'{title}, "{method.templates[0]}"', models), method, preprocess)
    models.append(model)
    return model


def _unique(title: str, longer: str, models: Sequence[PageModel]) -> str:
    """Return `title`, or a longer or numbered one if another model has it."""
    taken = {model.title for model in models}
    numbered = (f"{longer} ({number})" for number in range(2, len(taken) + 3))
    return next(each for each in (title, longer, *numbered) if each not in taken)
