"""What has to be known and found good before a run may write: data, split, backbone, method."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..backbone import load
from ..backbone.model import Backbone
from ..backbone.text.templates import choose_templates
from ..core.config import DataOptions, TrainConfig
from ..core.distributed import Ranks
from ..core.errors import UserError
from ..core.precision import Precision
from ..core.types import Interpolation, Preprocess, Source
from ..data.batches import TrainBatches
from ..data.registry import require_captions, source_from
from ..evaluation import EvalLoader, ViewCache
from ..methods import Method
from ..methods.shared.contrastive import ContrastiveMethod
from ..protocols import RETRIEVAL, default_protocol, episode_from
from ..runs.options import TrainOptions
from .tasks import ClassTask, check_task, protocol_of, task_of


@dataclass
class Shared:
    """What runs of one process need not do twice.

    Attributes:
        sources: opened data, by the options that name them.
        zeroshot: accuracy before training, by backbone, split, templates and views.
        views: fixed views of validation and test.
        texts: class text features, by text tower, names and templates; see `text.class_text_features`.
    """

    sources: dict[Hashable, Source] = field(default_factory=dict)
    zeroshot: dict[Hashable, dict[str, float]] = field(default_factory=dict)
    views: ViewCache = field(default_factory=lambda: ViewCache(0))
    texts: dict[Hashable, Tensor] = field(default_factory=dict)

    def source(self, options: DataOptions, captions: bool = False) -> Source:
        """The data of a run; with `captions`, opened for them."""
        key = (replace(options, interpolation=None), captions)
        if key not in self.sources:
            self.sources[key] = source_from(options, captions=captions)
        return self.sources[key]


@dataclass(frozen=True)
class Prepared:
    """A run whose input has been looked at, and found good.

    Attributes:
        options: what it was told.
        task: episode, views, and how both are used.
        method: set up.
        templates: prompt templates.
        average: kind of average of the weights.
        steps: batches; None where the method takes no steps.
        zeroshot: what the backbone could do before, by test set.
        precision, ranks: where and how to compute.
    """

    options: TrainOptions
    task: ClassTask
    method: Method
    templates: tuple[str, ...]
    average: str
    steps: TrainBatches | None
    zeroshot: Mapping[str, float]
    precision: Precision
    ranks: Ranks


def prepare(options: TrainOptions, ranks: Ranks, shared: Shared, source: Source | None = None) -> Prepared:
    """Open data and backbone, and set the method up. Writes nothing.

    Raises:
        UserError: whatever the input can be blamed for.
    """
    config = options.config
    captions = wants_captions(options)
    if source is None:
        source = shared.source(config.data, captions)
    elif captions:
        require_captions(source)
    protocol = protocol_of(config.split.protocol, options.method, source)
    episode = episode_from(replace(config.split, protocol=protocol), source)
    options.method.check_template(config.model.template)
    templates = choose_templates(config.model.template, source)
    precision = Precision(config.run.precision, ranks.device)
    backbone = load(config.model.backbone, ranks.device, config.model.cache_dir)
    preprocess = preprocess_for(backbone, config.data.interpolation, source)
    backbone.text_cache, shared.views.limit = shared.texts, 1e9 * config.evaluation.keep_views
    views = EvalLoader(source, preprocess, config.evaluation.eval_batch_size, ranks, precision, shared.views)
    method = options.method(options.hyper)
    task = task_of(episode, views, templates)
    check_task(method, episode)
    check_split(method, config, ranks)
    zeroshot: Mapping[str, float] = {}
    if method.iterates:
        key = (config.model.backbone, episode.split_hash, templates, preprocess, precision.name)
        if key not in shared.zeroshot:
            shared.zeroshot[key] = task.before(backbone)
        zeroshot = shared.zeroshot[key]
    torch.manual_seed(config.run.seed)  # of what a method draws to start from
    method.setup(backbone, episode, templates)
    average = (config.average.average or method.average) if method.iterates else "none"
    steps = task.steps(method, config, ranks) if method.iterates else None
    if average == "swad" and config.evaluation.validate_every == 0:
        raise UserError("--average swad goes by the validation loss: --validate-every must be above 0")
    return Prepared(options, task, method, templates, average, steps, zeroshot, precision, ranks)


def wants_captions(options: TrainOptions) -> bool:
    """Whether data that have classes and captions are to be opened for their captions."""
    return (
        options.config.split.protocol or default_protocol(options.method.learns_from == "captions")
    ) == RETRIEVAL


def preprocess_for(
    backbone: Backbone, told: Interpolation | None = None, source: Source | None = None
) -> Preprocess:
    """What a backbone wants to see: resized as told, or as the data are usually, or as it was itself."""
    chosen: Interpolation = told or (source.interpolation if source else None) or backbone.interpolation
    red, green, blue = backbone.mean
    std_red, std_green, std_blue = backbone.std
    return Preprocess(backbone.image_size, (red, green, blue), (std_red, std_green, std_blue), chosen)


def check_split(method: Method, config: TrainConfig, ranks: Ranks) -> None:
    """Refuse to split a batch that cannot be split."""
    if config.optimiser.batch_size < ranks.world:
        raise UserError(
            f"--batch-size {config.optimiser.batch_size} is less than one image for each of {ranks.world} "
            "processes"
        )
    whole = not method.mean_over_rows and not isinstance(method, ContrastiveMethod)
    if whole and (ranks.world > 1 or config.optimiser.micro_batch_size is not None):
        raise UserError(
            f"the loss of --method {method.name} looks at a batch as a whole; "
            "run it in one process, without --micro-batch-size"
        )
