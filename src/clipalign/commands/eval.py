"""`clipalign eval`: a run, or a backbone as it is, on any data."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..backbone import load
from ..backbone.text.templates import choose_templates
from ..core.config import EvalConfig
from ..core.distributed import Ranks
from ..core.errors import UserError
from ..core.precision import Precision, select_device
from ..core.types import Episode, Source
from ..core.version import __version__
from ..data.captions.sentences import captions_only
from ..data.registry import source_from
from ..engine.console import conclusion
from ..engine.progress import Reporter
from ..engine.setup import preprocess_for
from ..evaluation import EvalLoader
from ..evaluation.captions import caption_rows, found_by_caption
from ..evaluation.rows import domain_tests, result_rows, score, write_predictions
from ..methods import Method
from ..protocols import RETRIEVAL, episode_from
from ..runs.folder import check_out, is_run
from ..runs.options import parse_config, to_arguments
from ..runs.results import FILE, ResultRow, write_results
from ..runs.run import open_run, zeroshot
from .train import row_facts


def evaluate(model: str | Path, **options: Any) -> list[ResultRow]:
    """Score a model, as `clipalign eval` does.

    Args:
        model: run folder or backbone.
        options: those of the command line with underscores; `out` is needed.

    Returns:
        One row per test set, also written to `out`/results.jsonl.

    Raises:
        UserError: bad input; nothing has been written then.
    """
    return run_evaluation(to_arguments(EvalConfig, {"model": model, **options}))


def run_evaluation(arguments: Sequence[str], prog: str = "clipalign eval") -> list[ResultRow]:
    """Score as the tokens of a command line say, write the rows and return them."""
    config = parse_config(EvalConfig, arguments, prog)
    check_out(config.out, overwrite=config.overwrite)
    device = select_device(config.device)
    precision = Precision(config.precision, device)
    source = source_from(vars(config), captions=config.protocol == RETRIEVAL)
    episode = episode_to_score(config, source)
    facts_of_split = {name: getattr(episode, name, None) for name in ("protocol", "target", "split_hash")}
    command = shlex.join(["clipalign", "eval", *arguments])
    method, facts, templates = open_model(config, source, device, command)
    preprocess = preprocess_for(method.backbone, config.interpolation, source)
    views = EvalLoader(source, preprocess, config.eval_batch_size, Ranks(device=device), precision)
    extra = {**facts.get("extra", {}), "interpolation": preprocess.interpolation}
    facts = facts | facts_of_split | {"data": config.data, "extra": extra}
    if episode is not None and episode.caption_tests:
        rows = caption_rows(found_by_caption(views, method, episode.caption_tests, "test"), facts)
        config.out.mkdir(parents=True, exist_ok=True)
    else:
        tests = domain_tests(source) if episode is None else episode.tests
        scores = score(views, lambda names: method.classifier(names, templates), tests)
        if all(scored.accuracy is None for scored in scores):
            raise UserError(f"MODEL {config.model}: {scores[0].reason}")
        rows = result_rows(scores, source, facts)
        config.out.mkdir(parents=True, exist_ok=True)
        write_predictions(config.out / "predictions.npz", scores)
    write_results(config.out, rows)
    reporter = Reporter()
    for line in conclusion(rows):
        reporter.result(line)
    reporter.say(f"rows in {config.out / FILE}")
    return rows


def episode_to_score(config: EvalConfig, source: Source) -> Episode | None:
    """The episode whose tests are asked for; None for one test per domain, with all classes."""
    protocol = config.protocol
    if protocol is None and captions_only(source):
        protocol = RETRIEVAL
    if protocol is None and config.split_file is None:
        if config.target is not None:
            raise UserError("--target needs --protocol; without one every domain is scored")
        return None
    return episode_from(vars(config) | {"protocol": protocol}, source)


def open_model(
    config: EvalConfig, source: Source, device: torch.device, command: str
) -> tuple[Method, dict[str, Any], tuple[str, ...]]:
    """The model to score, the fields it gives its rows, and the templates."""
    if is_run(config.model):
        run = open_run(config.model, weights=config.weights, device=device, cache_dir=config.cache_dir)
        run.method.check_template(config.template)
        # A template chosen for training stays; one that came with the training data gives way to this data's.
        templates = choose_templates(config.template or run.options.run.template, source)
        steps = run.options.run.steps if run.method.iterates else 0
        average = run.folder.record()["average"] if config.weights == "model" else "none"
        facts = row_facts(run.options, templates, command)
        return (
            run.method,
            facts | {"steps": steps, "average": average, "extra": {"run": config.model}},
            templates,
        )
    if Path(config.model).exists():
        raise UserError(f"MODEL: {config.model} is not a run folder (no config.yaml)")
    templates = choose_templates(config.template, source)
    method = zeroshot(load(config.model, device, config.cache_dir), templates)
    facts = {
        "method": method.name,
        "backbone": config.model,
        "seed": config.seed,
        "steps": 0,
        "template": " | ".join(templates),
        "command": command,
        "version": __version__,
    }
    return method, facts, templates
