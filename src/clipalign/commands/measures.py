"""What the metrics of `--metrics` need, for a run that was trained or a model that is scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ..backbone import load
from ..core.errors import UserError
from ..core.types import Episode
from ..evaluation import EvalLoader
from ..evaluation.context import MetricContext
from ..evaluation.measuring import applicable, chosen_groups
from ..evaluation.metrics import ModelMetric
from ..runs.opening import OpenedModel
from ..runs.run import zeroshot
from .options import EvalConfig

if TYPE_CHECKING:
    from ..core.config import MetricOptions, ModelOptions, NameRule
    from ..core.types import TestSet
    from ..engine.setup import PreparedRun
    from ..methods import Method

Measures = tuple[list[ModelMetric], MetricContext]
Report = Callable[[str], None]


def measures_of_run(run: PreparedRun, report: Report) -> Measures | None:
    """Return the metrics of a training run and what they need; None without `--metrics`.

    Raises:
        UserError: an unknown metric, or one that is undefined for the run.
    """
    config = run.options.config
    if not config.evaluation.metrics:
        return None
    _check_classes(run.episode, config.evaluation)
    episode = run.episode
    context = MetricContext(
        run.loader,
        run.method,
        run.method.classifier,
        episode.tests,
        run.templates,
        episode.train_classes,
        episode.validation_rows,
        _before(config.model, run.templates, run.ranks.device, config.model.cache_dir),
        config.evaluation,
    )
    return applicable(context, report), context


def measures_of_model(
    config: EvalConfig,
    opened: OpenedModel,
    loader: EvalLoader,
    tests: Sequence[TestSet],
    templates: tuple[str, ...],
    episode: Episode | None,
    report: Report,
) -> Measures | None:
    """Return the metrics of `clipalign eval` and what they need; None without `--metrics`.

    Raises:
        UserError: an unknown metric, or one that is undefined for the model or the data.
    """
    if not config.measures.metrics:
        return None
    if episode is not None:
        _check_classes(episode, config.measures)
    before = None
    if opened.run is not None:
        model = opened.run.options.config.model
        names: NameRule = config.names or model.names
        cache_dir = config.cache_dir or model.cache_dir
        before = _before(replace(model, names=names), templates, loader.ranks.device, cache_dir)
    context = MetricContext(
        loader,
        opened.method,
        lambda names: opened.method.classifier(names, templates),
        tests,
        templates,
        backbone_before=before,
        options=config.measures,
    )
    if episode is not None:
        context = replace(
            context, train_classes=episode.train_classes, validation_rows=episode.validation_rows
        )
    return applicable(context, report), context


def _before(
    model: ModelOptions, templates: tuple[str, ...], device: torch.device, cache_dir: str | None
) -> Callable[[], Method]:
    """Return a function that loads the backbone of a run with its pre-trained weights."""
    return lambda: zeroshot(load(model.backbone, device, cache_dir).configure(model), templates)


def _check_classes(episode: Episode, options: MetricOptions) -> None:
    chosen_groups(options.metrics)  # an unknown name is reported first
    if episode.caption_tests:
        raise UserError(
            f"--metrics {','.join(options.metrics)}: the test sets of --protocol {episode.protocol} are captions, and "
            "these metrics are of classes"
        )
