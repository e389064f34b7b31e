"""`clipalign train`: from options to a run folder with weights and result rows."""

from __future__ import annotations

import json
import shlex
import shutil
import time
from collections.abc import Sequence
from typing import Any

import torch

from ..core import distributed
from ..core.checkpoint import save_weights
from ..core.config import TrainConfig
from ..core.distributed import Ranks
from ..core.precision import select_device
from ..core.version import __version__
from ..engine.console import conclusion, introduction, shown
from ..engine.fit import fit
from ..engine.progress import Reporter
from ..engine.setup import Prepared, Shared, prepare
from ..engine.writers import Writers, check_writers
from ..methods import get_method
from ..protocols import write_skipped, write_split
from ..runs.card import write_card
from ..runs.folder import RunFolder, check_out, check_same, write_config
from ..runs.options import TrainOptions, to_arguments, train_options
from ..runs.results import ResultRow, read_results, write_results
from ..runs.run import Run, open_run


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
    options: TrainOptions, folder: RunFolder, ranks: Ranks, going_on: bool, command: str, shared: Shared
) -> list[ResultRow]:
    run = prepare(options, ranks, shared)
    # From here on the folder is written; whatever the input could be blamed for is behind us.
    ranks.barrier()
    if ranks.first and not going_on:
        begin(folder, run, command)
    log_to = options.run.log_to if ranks.first else ()
    with (
        Writers(log_to, folder.path, options.flat()) as writers,
        Reporter(ranks.first, folder.log) as reporter,
    ):
        for line in introduction(options, run.method, run.task, run.steps, run.average, run.precision):
            reporter.say(line)
        began = time.perf_counter()
        facts = learn(run, folder, reporter, writers)
        facts |= row_facts(options, run.templates, command)
        facts["seconds"] = round(time.perf_counter() - began, 1)
        rows = run.task.score(run.method, facts, run.zeroshot, folder.predictions if ranks.first else None)
        if ranks.first:
            save_weights(folder.model, run.method.state_dict())
            if run.steps is None:
                save_weights(folder.last, run.method.state_dict())
            write_card(folder, rows)
            writers.results(rows, facts["extra"].get("stopped_at", facts["steps"]))
            write_results(folder.path, rows)
            shutil.rmtree(folder.checkpoint.parent, ignore_errors=True)  # of no use once the run is done
        for line in conclusion(rows):
            reporter.result(line)
    ranks.barrier()
    return rows


def begin(folder: RunFolder, run: Prepared, command: str) -> None:
    """Write what is known of a run before its first step."""
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.clear()
    episode = run.task.episode
    write_config(folder, run.options, record(run, command))
    write_split(folder.split, episode, run.options.run.split_seed)
    write_skipped(folder.skipped, episode)


def learn(run: Prepared, folder: RunFolder, reporter: Reporter, writers: Writers) -> dict[str, Any]:
    """Take the steps and make the last choices; the method then holds the weights that predictions use.

    Returns:
        Fields of the result rows that say what was learned on, and how well it went on source validation.
    """
    config, method, episode = run.options.run, run.method, run.task.episode
    validation, measured = run.task.validation(config.seed), None
    extra: dict[str, Any] = {"interpolation": run.task.views.preprocess.interpolation}
    if episode.skipped:
        extra["skipped"] = len(episode.skipped)
    if run.steps is not None:
        averaged, measured = fit(
            method, config, run.average, folder, run.steps, validation, run.precision, reporter, writers
        )
        if run.ranks.first:
            save_weights(folder.last, method.state_dict())
        if averaged.average:
            averaged.copy_to(averaged.parameters)
        if averaged.over:
            extra["stopped_at"] = averaged.step
    steps = config.steps if method.iterates else 0
    if chosen := method.finish(validation):
        measured = None  # it may have changed the weights
        numbers = {name: value for name, value in chosen.items() if isinstance(value, (int, float))}
        listed = ", ".join(f"{name.replace('_', ' ')} {shown(value)}" for name, value in numbers.items())
        reporter.say(f"chosen on source validation: {listed}")
        if run.ranks.first:
            writers.line(write_chosen(folder, steps, chosen))
    if measured is None:
        measured = validation.of(method)
    return {
        "protocol": episode.protocol,
        "target": episode.target,
        "split_hash": episode.split_hash,
        "steps": steps,
        "average": run.average,
        "validation": measured.get("validation_accuracy", measured.get("validation_recall")),
        "extra": extra,
    }


def write_chosen(folder: RunFolder, step: int, chosen: dict[str, Any]) -> dict[str, Any]:
    """Add what `Method.finish` returned to metrics.jsonl; returns the line."""
    line = {"step": step, "chosen": chosen}
    with folder.metrics.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    return line


def record(run: Prepared, command: str) -> dict[str, Any]:
    """Facts of a run for its config.yaml: what predictions need, and what explains its numbers."""
    options, episode = run.options, run.task.episode
    source = episode.source
    return {
        "command": command,
        "version": __version__,
        "torch": str(torch.__version__),
        "origins": dict(options.origins),
        "average": run.average,
        "resolved": run.method.resolved(),
        "data": source.name,
        "fingerprint": source.fingerprint(),
        "protocol": episode.protocol,
        "target": episode.target,
        "split": episode.rule,
        "split_hash": episode.split_hash,
        "templates": list(run.templates),
        "domain_names": list(source.domain_names),
        "class_names": list(episode.class_names),
        "interpolation": run.task.views.preprocess.interpolation,
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
