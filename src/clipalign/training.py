"""`clipalign train`: from options to a run folder with weights and result rows."""

from __future__ import annotations

import json
import shlex
import shutil
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from . import __version__, distributed
from .backbone import load
from .backbone.model import Backbone
from .card import write_card
from .checkpoint import save_weights
from .config import TrainConfig
from .data import Interpolation, Preprocess, Source, choose_templates, source_from
from .distributed import Ranks
from .engine import fit
from .errors import UserError
from .evaluation import Views
from .evaluation.kept import KeptViews
from .methods import Method, get_method
from .methods.contrastive import ContrastiveMethod
from .options import TrainOptions, to_arguments, train_options
from .precision import Precision, select_device
from .progress import Reporter
from .protocols import Episode, episode_from, write_skipped, write_split
from .results import ResultRow, read_results, write_results
from .runs import Run, RunFolder, check_out, check_same, open_run, write_config
from .said import conclusion, introduction, shown
from .tasks import RETRIEVAL, check_task, protocol_of, task_of
from .writers import Writers, check_writers


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
    views: KeptViews = field(default_factory=lambda: KeptViews(0))
    texts: dict[Hashable, Tensor] = field(default_factory=dict)

    def source(self, config: TrainConfig, captions: bool = False) -> Source:
        """The data of a run; with `captions`, opened for them."""
        names = ("data", "data_root", "data_options", "layout", "class_names", "max_broken")
        key = (*(getattr(config, name) for name in names), captions)
        if key not in self.sources:
            self.sources[key] = source_from(vars(config), captions=captions)
        return self.sources[key]


def train(**options: Any) -> Run:
    """Fine-tune, as `clipalign train` does, and open the run.

    Args:
        options: those of the command line with underscores, the method's own included; `out` is needed.

    Raises:
        UserError: bad input; nothing has been written then.
    """
    method = get_method(str(options.get("method", TrainConfig.method)))
    config = options.pop("config", None)
    arguments = to_arguments((TrainConfig, method.Config), options)
    if config is not None:
        arguments = ["--config", str(config), *arguments]
    run_training(arguments)
    return open_run(options["out"])


def run_training(
    arguments: Sequence[str], prog: str = "clipalign train", shared: Shared | None = None
) -> list[ResultRow]:
    """Train as the tokens of a command line say, write the run folder and return its rows.

    Args:
        arguments: tokens after the command's name.
        prog: name printed in help.
        shared: what earlier runs of this process left, and later ones may use.
    """
    options = train_options(arguments, prog)
    config = options.run
    check_writers(config.log_to)
    folder = RunFolder(config.out)
    ranks = distributed.start(select_device(config.device))
    try:
        check_out(config.out, overwrite=config.overwrite, resume=config.resume)
        going_on = config.resume and folder.config.is_file()
        if going_on:
            check_same(folder, options)
        if going_on and folder.done:
            rows = read_results(folder.path)
            Reporter(ranks.first).say(f"{config.out} is done")
            return rows
        command = shlex.join(["clipalign", "train", *arguments])
        return _train(options, folder, ranks, going_on, command, shared or Shared())
    finally:
        distributed.stop()


def _train(
    options: TrainOptions,
    folder: RunFolder,
    ranks: Ranks,
    going_on: bool,
    command: str,
    shared: Shared,
) -> list[ResultRow]:
    config = options.run
    source = shared.source(config, captions=wants_captions(options))
    protocol = protocol_of(config.protocol, options.method, source)
    episode = episode_from(vars(config) | {"protocol": protocol}, source)
    options.method.check_template(config.template)
    templates = choose_templates(config.template, source)
    precision = Precision(config.precision, ranks.device)
    backbone = load(config.backbone, ranks.device, config.cache_dir)
    preprocess = preprocess_for(backbone, config.interpolation, source)
    backbone.kept_texts, shared.views.limit = shared.texts, 1e9 * config.keep_views
    views = Views(source, preprocess, config.eval_batch_size, ranks, precision, shared.views)
    method = options.method(options.hyper)
    task = task_of(episode, views, templates)
    check_task(method, episode)
    check_split(method, config, ranks)
    zeroshot: dict[str, float] = {}
    if method.iterates:
        key = (config.backbone, episode.split_hash, templates, preprocess, precision.name)
        if key not in shared.zeroshot:
            shared.zeroshot[key] = task.before(backbone)
        zeroshot = shared.zeroshot[key]
    torch.manual_seed(config.seed)  # of what a method draws to start from
    method.setup(backbone, episode, templates)
    average = (config.average or method.average) if method.iterates else "none"
    steps = task.steps(method, config, ranks) if method.iterates else None
    if average == "swad" and config.validate_every == 0:
        raise UserError("--average swad goes by the validation loss: --validate-every must be above 0")

    # From here on the folder is written; whatever the input could be blamed for is behind us.
    ranks.barrier()
    if ranks.first and not going_on:
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.clear()
        facts = record(options, method, episode, templates, average, command)
        write_config(folder, options, facts | {"interpolation": preprocess.interpolation})
        write_split(folder.split, episode, config.split_seed)
        write_skipped(folder.skipped, episode)
    log_to = config.log_to if ranks.first else ()
    with (
        Writers(log_to, folder.path, options.flat()) as writers,
        Reporter(ranks.first, folder.log) as reporter,
    ):
        for line in introduction(options, method, task, steps, average, precision):
            reporter.say(line)
        began = time.perf_counter()
        validation, measured = task.validation(config.seed), None
        extra: dict[str, Any] = {"interpolation": preprocess.interpolation}
        if episode.skipped:
            extra["skipped"] = len(episode.skipped)
        if steps is not None:
            averaged, measured = fit(
                method, config, average, folder, steps, validation, precision, reporter, writers
            )
            if ranks.first:
                save_weights(folder.last, method.state_dict())
            if averaged.average:
                averaged.copy_to(averaged.parameters)
            if averaged.over:
                extra["stopped_at"] = averaged.step
        if chosen := method.finish(validation):
            measured = None  # it may have changed the weights
            numbers = {name: value for name, value in chosen.items() if isinstance(value, (int, float))}
            listed = ", ".join(f"{name.replace('_', ' ')} {shown(value)}" for name, value in numbers.items())
            reporter.say(f"chosen on source validation: {listed}")
            if ranks.first:
                writers.line(write_chosen(folder, config.steps if method.iterates else 0, chosen))
        if measured is None:
            measured = validation.of(method)
        facts = {
            **row_facts(options, templates, command),
            "protocol": episode.protocol,
            "target": episode.target,
            "split_hash": episode.split_hash,
            "steps": config.steps if method.iterates else 0,
            "average": average,
            "validation": measured.get("validation_accuracy", measured.get("validation_recall")),
            "seconds": round(time.perf_counter() - began, 1),
            "extra": extra,
        }
        rows = task.score(method, facts, zeroshot, folder.predictions if ranks.first else None)
        if ranks.first:
            save_weights(folder.model, method.state_dict())
            if not method.iterates:
                save_weights(folder.last, method.state_dict())
            write_card(folder, options.flat(), rows)
            writers.results(rows, extra.get("stopped_at", facts["steps"]))
            write_results(folder.path, rows)
            shutil.rmtree(folder.checkpoint.parent, ignore_errors=True)  # of no use once the run is done
        for line in conclusion(rows):
            reporter.result(line)
    ranks.barrier()
    return rows


def write_chosen(folder: RunFolder, step: int, chosen: dict[str, Any]) -> dict[str, Any]:
    """Add what `Method.finish` returned to metrics.jsonl; returns the line."""
    line = {"step": step, "chosen": chosen}
    with folder.metrics.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    return line


def preprocess_for(
    backbone: Backbone, told: Interpolation | None = None, source: Source | None = None
) -> Preprocess:
    """What a backbone wants to see: resized as told, or as the data are usually, or as it was itself."""
    chosen: Interpolation = told or getattr(source, "interpolation", None) or backbone.interpolation
    red, green, blue = backbone.mean
    std_red, std_green, std_blue = backbone.std
    return Preprocess(backbone.image_size, (red, green, blue), (std_red, std_green, std_blue), chosen)


def check_split(method: Method, config: TrainConfig, ranks: Ranks) -> None:
    """Refuse to split a batch that cannot be split."""
    if config.batch_size < ranks.world:
        raise UserError(
            f"--batch-size {config.batch_size} is less than one image for each of {ranks.world} processes"
        )
    whole = not method.mean_over_rows and not isinstance(method, ContrastiveMethod)
    if whole and (ranks.world > 1 or config.micro_batch_size is not None):
        raise UserError(
            f"the loss of --method {method.name} looks at a batch as a whole; "
            "run it in one process, without --micro-batch-size"
        )


def record(
    options: TrainOptions,
    method: Method,
    episode: Episode,
    templates: Sequence[str],
    average: str,
    command: str,
) -> dict[str, Any]:
    """Facts of a run for its config.yaml: what predictions need, and what explains its numbers."""
    source = episode.source
    return {
        "command": command,
        "version": __version__,
        "torch": str(torch.__version__),
        "origins": dict(options.origins),
        "average": average,
        "resolved": method.resolved(),
        "data": source.name,
        "fingerprint": source.fingerprint(),
        "protocol": episode.protocol,
        "target": episode.target,
        "split": episode.rule,
        "split_hash": episode.split_hash,
        "templates": list(templates),
        "domain_names": list(source.domain_names),
        "class_names": list(episode.class_names),
    }


def row_facts(options: TrainOptions, templates: Sequence[str], command: str) -> dict[str, Any]:
    """Fields of every result row of a run, on whatever data."""
    config = options.run
    iterates = options.method.iterates
    return {
        "method": options.method.name,
        "backbone": config.backbone,
        "data": config.data,
        "target": config.target,
        "seed": config.seed,
        "template": " | ".join(templates),
        "lr": config.lr if iterates else None,
        "lr_from": options.origins.get("lr", "default") if iterates else None,
        "command": command,
        "version": __version__,
    }


def wants_captions(options: TrainOptions) -> bool:
    """Whether data that have classes and captions are to be opened for their captions."""
    told = options.run.protocol
    return told == RETRIEVAL or (told is None and options.method.learns_from == "captions")
