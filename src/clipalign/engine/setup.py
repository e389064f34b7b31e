"""Validate inputs and build data, split, backbone and method."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from ..backbone import Backbone, load, preprocess_for
from ..backbone.text.templates import choose_templates
from ..core.config import DataOptions, TrainConfig
from ..core.distributed import Ranks
from ..core.errors import UserError
from ..core.precision import Precision
from ..core.types import Episode, Preprocess, Source
from ..data.batches import CaptionTrainBatches, TrainBatches
from ..data.captions.sentences import captions_only
from ..data.registry import require_captions, source_from
from ..evaluation import EvalLoader, ViewCache
from ..evaluation.scoring import score
from ..methods import Method, SupportsCaptions, check_template
from ..methods.capabilities import SupportsRunningAverage
from ..methods.shared.contrastive import ContrastiveMethod
from ..protocols import RETRIEVAL, default_protocol, episode_from
from ..runs.options import GIVEN, TrainOptions
from ..runs.run import zeroshot
from .averaging import average_kind


@dataclass
class RunCache:
    """Data that several runs of one process share.

    Attributes:
        sources: data sets, by the options that name them.
        zero_shot: accuracy before training, by backbone, split, templates and preprocessing.
        views: decoded validation and test views.
        texts: class text features; see `backbone.text.features.class_text_features`.
    """

    sources: dict[Hashable, Source] = field(default_factory=dict)
    zero_shot: dict[Hashable, dict[str, float]] = field(default_factory=dict)
    views: ViewCache = field(default_factory=lambda: ViewCache(0))
    texts: dict[Hashable, Tensor] = field(default_factory=dict)

    def source(self, options: DataOptions, captions: bool = False) -> Source:
        """Return the data set of a run; with `captions`, opened for its captions."""
        key = (replace(options, interpolation=None), captions)
        if key not in self.sources:
            self.sources[key] = source_from(options, captions=captions)
        return self.sources[key]


@dataclass(frozen=True)
class PreparedRun:
    """A validated run, ready to train.

    Attributes:
        options: resolved options.
        episode: training, validation and test rows.
        loader: evaluation views.
        method: after `Method.setup`.
        templates: prompt templates.
        average: kind of weight average.
        batches: training batches; None if the method does not iterate.
        zero_shot: accuracy of the backbone before training, by test set.
        precision, ranks: precision and processes.
        select: --select; "last" if there is nothing to select.
    """

    options: TrainOptions
    episode: Episode
    loader: EvalLoader
    method: Method
    templates: tuple[str, ...]
    average: str
    batches: TrainBatches | None
    zero_shot: Mapping[str, float]
    precision: Precision
    ranks: Ranks
    select: str = "last"


def prepare(
    options: TrainOptions, ranks: Ranks, cache: RunCache, source: Source | None = None
) -> PreparedRun:
    """Validate the options and build everything that training needs. No file is written.

    Args:
        options: resolved options.
        ranks: processes.
        cache: data shared with other runs of this process.
        source: data set; None to open the one that the options name.

    Raises:
        UserError: invalid input.
    """
    config, method_class = options.config, options.method
    wants_captions = method_class.learns_from == "captions"
    retrieval = (config.split.protocol or default_protocol(wants_captions)) == RETRIEVAL
    if source is None:
        source = cache.source(config.data, retrieval)
    elif retrieval:
        require_captions(source)
    protocol = config.split.protocol or default_protocol(
        wants_captions or captions_only(source), len(source.domain_names)
    )
    episode = episode_from(replace(config.split, protocol=protocol), source)
    check_template(method_class, config.model.template)
    templates = choose_templates(config.model.template, source)

    precision = Precision(config.run.precision, ranks.device)
    backbone = load(config.model.backbone, ranks.device, config.model.cache_dir).configure(config.model)
    backbone.text_cache = cache.texts
    preprocess = preprocess_for(backbone, config.data.interpolation, source)
    cache.views.limit = 1e9 * config.evaluation.keep_views
    batch_size = config.evaluation.eval_batch_size
    loader = EvalLoader(source, preprocess, batch_size, ranks, precision, cache.views)

    method = method_class(options.hyper)
    check_training_data(method, episode)
    average = average_kind(config.average, method)
    options = with_steps(options, episode)
    config = options.config
    check_augment(options, source)
    select = selection(options, episode, average)
    check_batch_size(method, config, ranks)
    if average == "swad" and config.evaluation.validate_every == 0:
        raise UserError("--average swad needs the validation loss: --validate-every must be above 0")

    if isinstance(method, SupportsRunningAverage):
        method.check_average(average)

    zero_shot: Mapping[str, float] = {}
    if method.iterates:
        model = (config.model.backbone, config.model.names, config.model.pooling)
        key = (model, episode.split_hash, templates, preprocess, precision.name)
        if key not in cache.zero_shot:
            cache.zero_shot[key] = zero_shot_accuracy(loader, backbone, episode, templates)
        zero_shot = cache.zero_shot[key]
    torch.manual_seed(config.run.seed)  # initial weights that the method draws
    method.setup(backbone, episode, templates)
    training = replace(preprocess, augment=config.recipe.augment)
    batches = train_batches(method, config, episode, training, ranks) if method.iterates else None
    return PreparedRun(
        options, episode, loader, method, templates, average, batches, zero_shot, precision, ranks, select
    )


def train_batches(
    method: Method, config: TrainConfig, episode: Episode, preprocess: Preprocess, ranks: Ranks
) -> TrainBatches:
    """Return the training batches of this process: of captions if the episode has retrieval tests, else of classes."""
    size, seed = config.optimiser.batch_size, config.run.seed
    if episode.caption_tests:
        assert isinstance(method, SupportsCaptions)  # checked with the protocol
        use, per_image = method.caption_use, method.captions_per_image
        return CaptionTrainBatches(episode, size, seed, preprocess, ranks, use, per_image)
    return TrainBatches(episode, size, seed, preprocess, ranks)


def with_steps(options: TrainOptions, episode: Episode) -> TrainOptions:
    """Return the options with --steps from --epochs and the number of training images, if --epochs is set."""
    config, schedule = options.config, options.config.schedule
    if schedule.epochs is None:
        return options
    steps = max(1, round(schedule.epochs * len(episode.train_rows) / config.optimiser.batch_size))
    origins = {**options.origins, "steps": options.origins.get("epochs", "default")}
    return replace(options, config=replace(config, schedule=replace(schedule, steps=steps)), origins=origins)


def check_augment(options: TrainOptions, source: Source) -> None:
    """Raise UserError if the command line asks for augmentation, and the data render their own training views."""
    if options.origins.get("augment") == GIVEN and not source.augments:
        raise UserError(
            f"--augment {options.config.recipe.augment} has no effect on --data {source.name}, whose training views "
            "are not augmented crops; drop the option"
        )


def selection(options: TrainOptions, episode: Episode, average: str) -> str:
    """Return --select, or "last" if there is nothing to select and the option is that of a recipe.

    Raises:
        UserError: the command line selects, but the average does so itself, or there is no validation.
    """
    if options.config.recipe.select == "last":
        return "last"
    if average == "swad":
        reason = "--average swad chooses the weights by itself"
    elif not (len(episode.validation_rows) or episode.caption_validation):
        reason = f"--protocol {episode.protocol} on {episode.source.name} has no validation images"
    else:
        return "best"
    if options.origins.get("select") == GIVEN:
        raise UserError(f"--select best: {reason}; drop the option")
    return "last"


def zero_shot_accuracy(
    loader: EvalLoader, backbone: Backbone, episode: Episode, templates: Sequence[str]
) -> dict[str, float]:
    """Return the zero-shot accuracy of the tests that share no class with training, to report forgetting."""
    labels = episode.source.labels
    tests = [t for t in episode.tests if not np.isin(labels[t.rows], episode.train_classes).any()]
    if not tests:
        return {}
    classifier_of = zeroshot(backbone, templates).classifier
    scores = score(loader, classifier_of, tests, metrics=())
    return {one.test.name: one.accuracy for one in scores if one.accuracy is not None}


def check_training_data(method: Method, episode: Episode) -> None:
    """Check that the episode has the training data that the method needs.

    Raises:
        UserError: captions for a method that trains on classes, or the reverse; or no training rows.
    """
    captions = bool(episode.caption_tests)
    if method.iterates and captions != (method.learns_from == "captions"):
        wanted = "captions" if method.learns_from == "captions" else "classes"
        other = "--protocol retrieval" if wanted == "captions" else "a protocol of classes"
        raise UserError(
            f"--method {method.name} learns from {wanted}, and --protocol {episode.protocol} on "
            f"{episode.source.name} has none; it needs {other}, or another method"
        )
    if method.iterates and len(episode.train_rows) == 0:
        raise UserError(
            f"--data {episode.source.name} has only test rows; "
            f"train on other captions, then score the run with `clipalign eval RUN --data {episode.source.name}`"
        )


def check_batch_size(method: Method, config: TrainConfig, ranks: Ranks) -> None:
    """Raise UserError if the batch cannot be split into micro-batches and processes as configured."""
    batch_size = config.optimiser.batch_size
    if batch_size < ranks.world:
        raise UserError(
            f"--batch-size {batch_size} is less than one image for each of {ranks.world} processes"
        )
    indivisible = not method.mean_over_rows and not isinstance(method, ContrastiveMethod)
    if indivisible and (ranks.world > 1 or config.optimiser.micro_batch_size is not None):
        raise UserError(
            f"the loss of --method {method.name} depends on all rows of a batch; "
            "run it in one process, without --micro-batch-size"
        )
