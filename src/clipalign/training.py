"""`clipalign train`: from options to a run folder with weights and result rows."""

from __future__ import annotations

import json
import shlex
import shutil
import time
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from . import __version__, distributed
from .backbone import load
from .backbone.model import Backbone
from .card import write_card
from .checkpoint import save_weights
from .config import TrainConfig
from .data import Interpolation, Preprocess, Source, choose_templates, source_from
from .data.batches import Steps
from .distributed import Ranks
from .engine import SourceValidation, fit
from .errors import UserError
from .evaluation import Views
from .evaluation.rows import result_rows, score, write_predictions
from .methods import Method, get_method
from .options import TrainOptions, to_arguments, train_options
from .precision import Precision, select_device
from .progress import Reporter
from .protocols import Episode, episode_from, write_skipped, write_split
from .results import ResultRow, read_results, write_results
from .runs import Run, RunFolder, check_out, check_same, open_run, write_config
from .writers import Writers, check_writers


@dataclass
class Shared:
    """What runs of one process need not do twice.

    Attributes:
        sources: opened data, by the options that name them.
        zeroshot: accuracy before training, by backbone, split, templates and views.
    """

    sources: dict[Hashable, Source] = field(default_factory=dict)
    zeroshot: dict[Hashable, dict[str, float]] = field(default_factory=dict)

    def source(self, config: TrainConfig) -> Source:
        """The data of a run."""
        names = ("data", "data_root", "data_options", "layout", "class_names", "max_broken")
        key = tuple(getattr(config, name) for name in names)
        if key not in self.sources:
            self.sources[key] = source_from(vars(config))
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
    source = shared.source(config)
    episode = episode_from(vars(config), source)
    options.method.check_template(config.template)
    templates = choose_templates(config.template, source)
    precision = Precision(config.precision, ranks.device)
    backbone = load(config.backbone, ranks.device, config.cache_dir)
    preprocess = preprocess_for(backbone, config.interpolation, source)
    views = Views(source, preprocess, config.eval_batch_size, ranks, precision)
    method = options.method(options.hyper)
    check_split(method, config, ranks)
    zeroshot: dict[str, float] = {}
    if method.iterates:
        key = (config.backbone, episode.split_hash, templates, preprocess, precision.name)
        if key not in shared.zeroshot:
            shared.zeroshot[key] = zeroshot_on_unseen(backbone, episode, templates, views)
        zeroshot = shared.zeroshot[key]
    torch.manual_seed(config.seed)  # of what a method draws to start from
    method.setup(backbone, episode, templates)
    average = (config.average or method.average) if method.iterates else "none"
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
        for line in introduction(options, method, episode, average, precision):
            reporter.say(line)
        began = time.perf_counter()
        validation = SourceValidation(episode, views, config.seed)
        extra: dict[str, Any] = {"interpolation": preprocess.interpolation}
        if episode.skipped:
            extra["skipped"] = len(episode.skipped)
        if method.iterates:
            steps = Steps(episode, config.batch_size, config.seed, views.preprocess, ranks)
            averaged = fit(method, config, average, folder, steps, validation, precision, reporter, writers)
            if ranks.first:
                save_weights(folder.last, method.state_dict())
            if averaged.average:
                averaged.copy_to(averaged.parameters)
            if averaged.over:
                extra["stopped_at"] = averaged.step
        if chosen := method.finish(validation):
            numbers = {name: value for name, value in chosen.items() if isinstance(value, (int, float))}
            listed = ", ".join(f"{name.replace('_', ' ')} {shown(value)}" for name, value in numbers.items())
            reporter.say(f"chosen on source validation: {listed}")
            if ranks.first:
                writers.line(write_chosen(folder, config.steps if method.iterates else 0, chosen))
        facts = {
            **row_facts(options, templates, command),
            "protocol": episode.protocol,
            "target": episode.target,
            "split_hash": episode.split_hash,
            "steps": config.steps if method.iterates else 0,
            "average": average,
            "validation": validation.accuracy(method.classifier(episode.class_names)),
            "seconds": round(time.perf_counter() - began, 1),
            "extra": extra,
        }
        scores = score(views, method.classifier, episode.tests)
        rows = result_rows(scores, source, facts, zeroshot)
        if ranks.first:
            save_weights(folder.model, method.state_dict())
            if not method.iterates:
                save_weights(folder.last, method.state_dict())
            write_predictions(folder.predictions, scores)
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
    if not method.mean_over_rows and (ranks.world > 1 or config.micro_batch_size is not None):
        raise UserError(
            f"the loss of --method {method.name} looks at a batch as a whole; "
            "run it in one process, without --micro-batch-size"
        )


def zeroshot_on_unseen(
    backbone: Backbone, episode: Episode, templates: Sequence[str], views: Views
) -> dict[str, float]:
    """Accuracy before training on the test sets none of whose classes is trained; what is to be kept."""
    labels = episode.source.labels
    tests = [test for test in episode.tests if not np.isin(labels[test.rows], episode.train_classes).any()]
    zeroshot = get_method("zeroshot")()
    zeroshot.setup(backbone, episode, templates)
    scores = score(views, zeroshot.classifier, tests)
    return {scored.test.name: scored.accuracy.top1 for scored in scores if scored.accuracy}


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


def introduction(
    options: TrainOptions, method: Method, episode: Episode, average: str, precision: Precision
) -> Iterator[str]:
    """What is about to be done, with every number that was chosen for the user."""
    config = options.run
    target = f", target {episode.target}" if episode.target else ""
    yield (
        f"{method.name} on {config.backbone}; {episode.source.name}, {episode.protocol}{target}: "
        f"{len(episode.train_rows)} rows of {len(episode.train_domains)} domains and "
        f"{len(episode.train_classes)} classes to train, {len(episode.validation_rows)} to validate"
    )
    if episode.skipped:
        yield f"skipped {len(episode.skipped)} files that are no images; they are listed in skipped.csv"
    if method.iterates:
        trained = sum(parameter.numel() for parameter in method.parameters())
        yield (
            f"{trained:,} parameters trained for {config.steps} steps of {config.batch_size} images; "
            f"lr {config.lr:g} ({options.origins.get('lr', 'default')}), average {average}, "
            f"{precision.name}, seed {config.seed}"
        )
    else:
        yield "no steps are taken: --steps has no effect"
    if resolved := method.resolved():
        yield ", ".join(f"{name.replace('_', ' ')} {shown(value)}" for name, value in resolved.items())


def shown(value: Any) -> str:
    """A value as a reader wants it: six digits of a float."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def conclusion(rows: Sequence[ResultRow]) -> Iterator[str]:
    """The numbers, and what they cost."""
    for row in rows:
        if row.accuracy is None:
            yield f"{row.test}: not scored, {row.reason}"
            continue
        h = "" if row.h is None else f", h {100 * row.h:.1f} %"
        yield f"{row.test}: {100 * row.accuracy:.1f} % of {row.n} images among {row.classes} classes{h}"
    for row in rows:
        if row.zeroshot is not None and row.accuracy is not None:
            change = 100 * (row.accuracy - row.zeroshot)
            verb = "forgot" if change < 0 else "gained"
            yield (
                f"{row.method} {verb} {abs(change):.1f} points on classes not trained ({row.test}): "
                f"{100 * row.zeroshot:.1f} % zero-shot, {100 * row.accuracy:.1f} % after"
            )
