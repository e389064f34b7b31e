"""`clipalign train`: fine-tune a backbone and write a run folder with weights and result rows."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch

from ..core import distributed
from ..core.checkpoint import remove_abandoned, save_weights
from ..core.errors import UserError
from ..core.fields import DEFAULT
from ..core.interrupts import Interrupted, deferred, handled
from ..core.locks import locked
from ..core.precision import select_device
from ..core.types import Source
from ..core.version import __version__
from ..data.registry import name_of, opened
from ..engine.console import format_value, result_lines, run_lines
from ..engine.fit import fit
from ..engine.log import RunLog
from ..engine.progress import Reporter
from ..engine.selection import BestWeights
from ..engine.setup import PreparedRun, RunCache, prepare
from ..engine.validation import make_validation
from ..engine.writers import Writers, check_writers
from ..evaluation.metrics import metric_fields
from ..evaluation.results import ResultRow, read_results, write_results
from ..evaluation.scoring import evaluate_episode
from ..protocols import write_skipped, write_split
from ..runs.card import write_card
from ..runs.folder import RunFolder, check_out, check_same, write_config
from ..runs.options import TrainOptions, train_command, train_options, train_options_from
from ..runs.record import RunRecord
from ..runs.run import Run, open_run
from .dry_run import dry_run
from .measures import Measures, measures_of_run


def train(
    method: str,
    data: str | Path | Source,
    out: str | Path,
    *,
    config: str | Path = DEFAULT,
    # Model
    backbone: str = DEFAULT,
    cache_dir: str | Path | None = DEFAULT,
    template: Sequence[str] = DEFAULT,
    names: Literal["paper", "plain"] = DEFAULT,
    pooling: Literal["class", "patches"] = DEFAULT,
    # Recipe
    recipe: Literal["published", "common"] = DEFAULT,
    augment: Literal["clip-crop", "coop", "tip-adapter", "domainbed", "none"] = DEFAULT,
    select: Literal["last", "best"] = DEFAULT,
    # Data and split
    data_root: str | Path | None = DEFAULT,
    data_options: Sequence[str] = DEFAULT,
    layout: Literal["auto", "class", "domain", "split"] = DEFAULT,
    class_names: str | Path | None = DEFAULT,
    group_column: str | None = DEFAULT,
    max_broken: float = DEFAULT,
    interpolation: Literal["bilinear", "bicubic"] | None = DEFAULT,
    protocol: str | None = DEFAULT,
    target: str | None = DEFAULT,
    target_split: Literal["all", "in", "out"] | None = DEFAULT,
    shots: int | None = DEFAULT,
    ratios: Sequence[float] = DEFAULT,
    split_seed: int = DEFAULT,
    split_file: str | Path | None = DEFAULT,
    # Optimiser and schedule
    batch_size: int = DEFAULT,
    micro_batch_size: int | None = DEFAULT,
    optimizer: Literal["adamw", "adam", "sgd"] = DEFAULT,
    lr: float = DEFAULT,
    weight_decay: float = DEFAULT,
    momentum: float = DEFAULT,
    clip_grad_norm: float | None = DEFAULT,
    steps: int = DEFAULT,
    epochs: float | None = DEFAULT,
    schedule: Literal["cosine", "constant"] = DEFAULT,
    warmup_steps: int | float = DEFAULT,
    warmup_lr: float | None = DEFAULT,
    # Weight averaging
    average: Literal["none", "ema", "bma", "gaussian", "swad"] | None = DEFAULT,
    ema_decay: float = DEFAULT,
    bma_beta: float = DEFAULT,
    gaussian_mean: float = DEFAULT,
    gaussian_std: float = DEFAULT,
    gaussian_parts: int = DEFAULT,
    swad_converge: int = DEFAULT,
    swad_tolerance: int = DEFAULT,
    swad_ratio: float = DEFAULT,
    # Evaluation
    eval_batch_size: int = DEFAULT,
    keep_views: float = DEFAULT,
    validate_every: int | None = DEFAULT,
    metrics: Sequence[str] = DEFAULT,
    class_tree: str | Path | None = DEFAULT,
    object_masks: str | Path | None = DEFAULT,
    # Run
    seed: int = DEFAULT,
    device: str = DEFAULT,
    precision: Literal["auto", "fp32", "bf16", "fp16", "released-fp16"] = DEFAULT,
    workers: int = DEFAULT,
    log_to: Sequence[str] = DEFAULT,
    log_every: int = DEFAULT,
    checkpoint_every: int = DEFAULT,
    resume: bool = DEFAULT,
    overwrite: bool = DEFAULT,
    **hyper: object,
) -> Run:
    """Fine-tune, as `clipalign train` does, and open the run.

    The keywords are the options of the command line, see the groups in `core.config`. Those that are not given
    are, in this order, the ones in `config`, those measured for the method, those of the recipe, or the defaults.

    Args:
        method: a name of `list_methods`.
        data: as --data, or an opened data set.
        out: run folder to write.
        config: YAML file of options.
        hyper: hyper-parameters of the method, the fields of its `Config`.

    Raises:
        UserError: invalid input; nothing has been written then.
    """
    values = dict(locals())  # the first statement: nothing but the arguments is local yet
    values |= values.pop("hyper") | {"data": name_of(data)}
    train_from({name: value for name, value in values.items() if value is not DEFAULT}, source=opened(data))
    return open_run(out)


def run_training(tokens: Sequence[str], prog: str = "clipalign train") -> list[ResultRow]:
    """Train as a command line says, write the run folder and return its rows."""
    options = train_options(tokens, prog)
    if options.config.run.dry_run:
        dry_run(options)
        return []
    with handled():
        return run_options(options, shlex.join(["clipalign", "train", *tokens]))


def train_from(
    values: Mapping[str, Any], cache: RunCache | None = None, source: Source | None = None
) -> list[ResultRow]:
    """Train with options given in Python; see `runs.options.train_options_from` and `run_options`."""
    return run_options(train_options_from(values), train_command(values), cache, source)


def run_options(
    options: TrainOptions, command: str, cache: RunCache | None = None, source: Source | None = None
) -> list[ResultRow]:
    """Train with resolved options, write the run folder and return its rows.

    Args:
        options: of the run.
        command: recorded in the run and its rows.
        cache: data that runs of one process share.
        source: opened data set; None to open the one of the options.

    Raises:
        UserError: invalid input; nothing has been written then.
    """
    config = options.config.run
    if config.dry_run:
        raise UserError("--dry-run is an option of `clipalign train` on the command line; drop it")
    check_writers(config.log_to)
    metric_fields()  # a metric of another package that fails to load stops the run before training
    folder = RunFolder(config.out)
    ranks = distributed.start(select_device(config.device))
    try:
        check_out(config.out, overwrite=config.overwrite, resume=config.resume)
        resuming = config.resume and folder.config.is_file()
        if resuming:
            check_same(folder, options)
        if resuming and folder.done:
            Reporter(ranks.is_main).info(f"{config.out} is finished")
            return read_results(folder.path)
        run = prepare(options, ranks, cache or RunCache(), source)
        measures = measures_of_run(run, Reporter(ranks.is_main).info)
        ranks.barrier()  # no process writes before all have valid input
        with owned(folder) if ranks.is_main else nullcontext():
            if ranks.is_main and not resuming:
                begin(folder, run, command)
            rows = train_and_evaluate(run, folder, command, measures)
            ranks.barrier()
        return rows
    except Interrupted as error:
        # The message, on one line, is the main process's.
        raise Interrupted(error.number, how_to_resume(folder, error) if ranks.is_main else "") from None
    finally:
        distributed.stop()


@contextmanager
def owned(folder: RunFolder) -> Iterator[None]:
    """Hold the lock of a run folder, without the temporary files of killed processes in it.

    Raises:
        UserError: another process writes the folder.
    """
    folder.path.mkdir(parents=True, exist_ok=True)
    with locked(folder.path):
        remove_abandoned(folder.path)
        remove_abandoned(folder.checkpoint.parent)
        yield


def how_to_resume(folder: RunFolder, error: Interrupted) -> str:
    """Return the message of an interrupted run, and append it to its log."""
    if not folder.config.is_file():
        return f"{error} before the first step; nothing was written"
    message = (
        f"{error}; resume with: {shlex.join(['clipalign', 'train', '--out', str(folder.path), '--resume'])}"
    )
    with folder.log.open("a", encoding="utf-8") as file:
        file.write(f"{message}\n")
    return message


def begin(folder: RunFolder, run: PreparedRun, command: str) -> None:
    """Write the files that exist before the first step: config.yaml, split.json and skipped.csv."""
    episode = run.episode
    with deferred():
        folder.clear()
        write_config(folder, run.options, record(run, command))
        write_split(folder.split, episode, run.options.config.split.split_seed)
        write_skipped(folder.skipped, episode)


def train_and_evaluate(
    run: PreparedRun, folder: RunFolder, command: str, measures: Measures | None = None
) -> list[ResultRow]:
    """Train, score the tests, and write weights, model card and result rows."""
    is_main = run.ranks.is_main
    log_to = run.options.config.run.log_to if is_main else ()
    with (
        Writers(log_to, folder.path, run.options.flat()) as writers,
        Reporter(is_main, folder.log) as reporter,
    ):
        for line in run_lines(run):
            reporter.info(line)
        start = time.perf_counter()
        fields = fit_method(run, RunLog(folder, reporter, writers, is_main))
        fields |= run.options.row_fields(run.templates, command)
        fields["seconds"] = round(time.perf_counter() - start, 1)
        rows = evaluate_episode(
            run.loader,
            run.method,
            run.episode,
            fields,
            run.zero_shot,
            folder.predictions if is_main else None,
            measures,
        )
        if is_main:
            save_weights(folder.model, run.method.state_dict())
            if run.batches is None:
                save_weights(folder.last, run.method.state_dict())
            write_card(folder, rows)
            writers.results(rows, fields["extra"].get("stopped_at", fields["steps"]))
            write_results(folder.path, rows)
            shutil.rmtree(folder.checkpoint.parent, ignore_errors=True)  # not needed once the run is finished
        for line in result_lines(rows):
            reporter.result(line)
    return rows


def fit_method(run: PreparedRun, log: RunLog) -> dict[str, Any]:
    """Run the training loop and `Method.finish`; the method then holds the weights that predictions use.

    Returns:
        The fields of the result rows about training and validation.
    """
    config, method, episode = run.options.config, run.method, run.episode
    validation = make_validation(episode, run.loader, config.run.seed, config.recipe.augment)
    metrics: dict[str, float] | None = None
    extra: dict[str, Any] = {"interpolation": run.loader.preprocess.interpolation}
    if episode.skipped:
        extra["skipped"] = len(episode.skipped)
    if run.batches is not None:
        best = BestWeights(method) if run.select == "best" else None
        with deferred():
            average, metrics = fit(method, config, run.batches, validation, run.precision, log, best)
        if run.ranks.is_main:
            save_weights(log.folder.last, method.state_dict())
        if average.average:
            average.copy_to(average.parameters)
        if best is not None and best.step:
            best.restore()
            metrics = best.metrics
            extra["selected_step"] = best.step
            log.info(f"kept the weights of step {best.step}: best source validation")
        if average.finished:
            extra["stopped_at"] = average.step
    steps = config.schedule.steps if method.iterates else 0
    if chosen := method.finish(validation):
        metrics = None  # `finish` may have changed the weights
        numbers = {name: value for name, value in chosen.items() if isinstance(value, (int, float))}
        listed = ", ".join(
            f"{name.replace('_', ' ')} {format_value(value)}" for name, value in numbers.items()
        )
        log.info(f"chosen on source validation: {listed}")
        log.write({"step": steps, "chosen": chosen})
    if metrics is None:
        metrics = validation.evaluate(method)
    return {
        "protocol": episode.protocol,
        "target": episode.target,
        "split_hash": episode.split_hash,
        "steps": steps,
        "average": run.average,
        "validation": metrics.get("validation_accuracy", metrics.get("validation_recall")),
        "extra": extra,
    }


def record(run: PreparedRun, command: str) -> RunRecord:
    """Return the facts for config.yaml: those that predictions need, and those that explain the results."""
    options, episode = run.options, run.episode
    source = episode.source
    return RunRecord(
        command=command,
        version=__version__,
        torch=str(torch.__version__),
        origins=dict(options.origins),
        average=run.average,
        resolved=run.method.resolved(),
        data=source.name,
        fingerprint=source.fingerprint(),
        protocol=episode.protocol,
        target=episode.target,
        split=episode.rule,
        split_hash=episode.split_hash,
        templates=run.templates,
        domain_names=source.domain_names,
        class_names=episode.class_names,
        interpolation=run.loader.preprocess.interpolation,
    )
