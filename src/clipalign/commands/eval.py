"""`clipalign eval`: score a run, or a backbone zero-shot, on any data."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from ..backbone import preprocess_for
from ..backbone.pocket import POCKET_NOTE
from ..backbone.text.templates import choose_templates
from ..core.config import SplitOptions
from ..core.distributed import Ranks
from ..core.errors import UserError
from ..core.fields import flat
from ..core.parsing import command_line, make_config, parse_config
from ..core.precision import Precision, select_device
from ..core.types import Episode, Source
from ..core.version import __version__
from ..core.yaml_files import plain
from ..data.captions.sentences import captions_only
from ..data.registry import name_of, opened, source_from
from ..data.sources.table import ImageTable
from ..engine.console import result_lines
from ..engine.progress import Reporter
from ..evaluation import EvalLoader
from ..evaluation.results import FILE, ResultRow, write_results
from ..evaluation.retrieval import retrieval_outputs, retrieval_rows
from ..evaluation.scoring import domain_tests, result_rows, score, with_measures, write_predictions
from ..methods import check_template
from ..protocols import RETRIEVAL, episode_from
from ..runs.folder import check_out
from ..runs.opening import OpenedModel, open_model
from ..runs.options import is_pocket
from .measures import measures_of_model
from .options import EvalConfig


def evaluate(
    model: str | Path,
    data: str | Path | Source,
    out: str | Path,
    *,
    data_root: str | Path | None = None,
    data_options: Sequence[str] = (),
    layout: Literal["auto", "class", "domain", "split"] = "auto",
    class_names: str | Path | None = None,
    group_column: str | None = None,
    max_broken: float = 0.01,
    interpolation: Literal["bilinear", "bicubic"] | None = None,
    protocol: str | None = None,
    target: str | None = None,
    target_split: Literal["all", "in", "out"] | None = None,
    shots: int | None = None,
    ratios: Sequence[float] = (),
    split_seed: int = 0,
    split_file: str | Path | None = None,
    weights: Literal["model", "last"] = "model",
    template: Sequence[str] = (),
    names: Literal["paper", "plain"] | None = None,
    cache_dir: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    eval_batch_size: int = 256,
    metrics: Sequence[str] = (),
    class_tree: str | Path | None = None,
    object_masks: str | Path | None = None,
    overwrite: bool = False,
) -> list[ResultRow]:
    """Score a model, as `clipalign eval` does.

    Args:
        model: run folder or backbone.
        data: as --data, or an opened data set.
        out: folder for results.jsonl.

    The keywords are the options of the command line; see `EvalConfig` and the groups in `core.config`.

    Returns:
        One row per test set, also written to results.jsonl in `out`.

    Raises:
        UserError: invalid input; nothing has been written then.
    """
    values = {**locals(), "data": name_of(data)}
    config = make_config(EvalConfig, values)
    return score_model(config, command_line("clipalign eval", config), opened(data))


def run_evaluation(tokens: Sequence[str], prog: str = "clipalign eval") -> list[ResultRow]:
    """Score a model as a command line says; returns the rows written."""
    return score_model(parse_config(EvalConfig, tokens, prog), shlex.join(["clipalign", "eval", *tokens]))


def score_model(config: EvalConfig, command: str, source: Source | None = None) -> list[ResultRow]:
    """Score a model, write its rows and predictions, and print the numbers.

    Args:
        config: options.
        command: for the rows.
        source: opened data set; None to open the one of the options.
    """
    check_out(config.out, overwrite=config.overwrite)
    device = select_device(config.device)
    precision = Precision(config.precision, device)
    if source is None:
        source = source_from(config.data, captions=config.split.protocol == RETRIEVAL)
    episode = episode_to_score(config.split, source)
    opened_model = open_model(
        config.model,
        weights=config.weights,
        device=device,
        cache_dir=config.cache_dir,
        templates=choose_templates(config.template, source),
    )
    method = opened_model.method
    if config.names is not None:
        method.backbone.names = config.names
    facts, templates = model_facts(config, opened_model, source, command)
    preprocess = preprocess_for(method.backbone, config.data.interpolation, source)
    loader = EvalLoader(source, preprocess, config.eval_batch_size, Ranks(device=device), precision)
    if episode is None:
        facts |= {"protocol": None, "target": None, "split_hash": None}
    else:
        facts |= {"protocol": episode.protocol, "target": episode.target, "split_hash": episode.split_hash}
    extra = {**facts.get("extra", {}), "interpolation": preprocess.interpolation}
    if method.backbone.names != "paper":
        extra["names"] = method.backbone.names
    facts |= {"data": config.data.data, "extra": extra}
    reporter = Reporter()
    if is_pocket(method.backbone.spec) and isinstance(source, ImageTable):
        reporter.info(POCKET_NOTE)
    tests = domain_tests(source) if episode is None else episode.tests
    measures = measures_of_model(config, opened_model, loader, tests, templates, episode, reporter.info)
    if episode is not None and episode.caption_tests:
        outputs = retrieval_outputs(loader, method, episode.caption_tests, "test")
        rows = retrieval_rows(episode.caption_tests, outputs, facts)
        config.out.mkdir(parents=True, exist_ok=True)
    else:
        scores = score(loader, lambda names: method.classifier(names, templates), tests)
        if all(one.outputs is None for one in scores):
            raise UserError(f"MODEL {config.model}: {scores[0].reason}")
        if measures is not None:
            scores = with_measures(scores, *measures)
        rows = result_rows(scores, source, facts)
        config.out.mkdir(parents=True, exist_ok=True)
        write_predictions(config.out / "predictions.npz", scores)
    write_results(config.out, rows)
    for line in result_lines(rows):
        reporter.result(line)
    reporter.info(f"rows in {config.out / FILE}")
    return rows


def episode_to_score(options: SplitOptions, source: Source) -> Episode | None:
    """Return the episode whose tests are scored; None for one test per domain with all rows and classes."""
    protocol = options.protocol
    if protocol is None and captions_only(source):
        protocol = RETRIEVAL
    if protocol is None and options.split_file is None:
        if options.target is not None:
            raise UserError("--target needs --protocol; without one every domain is scored")
        return None
    return episode_from(replace(options, protocol=protocol), source)


def model_facts(
    config: EvalConfig, opened_model: OpenedModel, source: Source, command: str
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the fields of result rows that describe the model, and the prompt templates."""
    method, run = opened_model.method, opened_model.run
    if run is None:
        templates = choose_templates(config.template, source)
        facts = {
            "method": method.name,
            "backbone": config.model,
            "seed": config.seed,
            "steps": 0,
            "template": " | ".join(templates),
            "options": {name: plain(value) for name, value in flat(config).items()},
            "command": command,
            "version": __version__,
        }
        return facts, templates
    check_template(type(method), config.template)
    # Templates chosen for training are kept; those of the training data are replaced by those of this data.
    templates = choose_templates(config.template or run.options.config.model.template, source)
    facts = run.options.row_fields(templates, command)
    facts["steps"] = run.options.config.schedule.steps if method.iterates else 0
    facts["average"] = run.record.average if config.weights == "model" else "none"
    return facts | {"extra": {"run": config.model}}, templates
