"""The functions of the Python API take the options of the command line, with the same types and defaults."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, get_args

import pytest

import clipalign
from clipalign.commands.data import CheckConfig
from clipalign.commands.eval import EvalConfig
from clipalign.commands.explain import ExplainConfig
from clipalign.commands.export import ExportConfig
from clipalign.commands.options import EmbedConfig, SearchConfig
from clipalign.commands.predict import PredictConfig
from clipalign.commands.report import ReportConfig
from clipalign.commands.sweep.run import SweepConfig
from clipalign.core.config import TrainConfig
from clipalign.core.errors import UserError
from clipalign.core.fields import DEFAULT, Option, options_of
from clipalign.core.parsing import OptionParser
from clipalign.core.types import Source
from clipalign.data.sources.folder import ImageFolder


@dataclass(frozen=True)
class Api:
    """A function with the dataclass of its command, and the names that only one of them has."""

    function: Callable[..., Any]
    options: type
    only_python: frozenset[str] = frozenset()
    only_command: frozenset[str] = frozenset()


APIS = [
    Api(clipalign.train, TrainConfig, frozenset({"config", "hyper"}), frozenset({"dry_run"})),
    Api(clipalign.evaluate, EvalConfig),
    Api(clipalign.predict, PredictConfig, only_command=frozenset({"out", "overwrite"})),
    Api(clipalign.embed_images, EmbedConfig),
    Api(clipalign.search_images, SearchConfig, only_command=frozenset({"json"})),
    Api(clipalign.explain_image, ExplainConfig),
    Api(clipalign.export_model, ExportConfig),
    Api(clipalign.sweep_study, SweepConfig, only_command=frozenset({"slurm", "dry_run"})),
    Api(clipalign.write_report, ReportConfig),
    Api(clipalign.check_data, CheckConfig),
]
# Arguments whose types are wider than those of the options by more than the rules in `widened`.
PATH_OR_SOURCE = str | Path | Source
WIDER = {
    ("train", "data"): PATH_OR_SOURCE,
    ("evaluate", "data"): PATH_OR_SOURCE,
    **{(name, "model"): str | Path for name in ("evaluate", "predict", "embed_images", "explain", "export")},
    ("check_data", "data"): str | Path,
    ("predict", "classes"): Sequence[str] | None,
}


def widened(api: Api, option: Option) -> Any:
    """Return the type that Python takes for an option: strings for paths, and sequences for tuples."""
    name = (api.function.__name__, option.name)
    if name in WIDER:
        return WIDER[name]
    if option.element is not None:
        return Sequence[str | Path if option.element is Path else option.element]
    if Path in (option.hint, *get_args(option.hint)) or option.name == "cache_dir":
        return str | Path | option.hint
    return option.hint


@pytest.mark.parametrize("api", APIS, ids=lambda api: api.function.__name__)
def test_signature_agrees_with_options(api: Api) -> None:
    options, signature = options_of(api.options), inspect.signature(api.function)
    hints = typing.get_type_hints(api.function)
    assert set(signature.parameters) - api.only_python == set(options) - api.only_command
    parser = OptionParser("", api.options)
    for name in set(options) - api.only_command:
        parameter, option = signature.parameters[name], options[name]
        assert hints[name] == widened(api, option), name
        if api.options is TrainConfig:
            required = name in ("method", "data", "out")
            assert parameter.default is (inspect.Parameter.empty if required else DEFAULT), name
        elif parameter.default is not inspect.Parameter.empty:
            assert parser.convert({name: parameter.default}) == {name: option.default}, name
        else:
            assert option.default is MISSING or name in ("data", "to"), name


def test_misspelt_keyword_of_train_is_an_error_with_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown option --stepz; did you mean --steps"):
        clipalign.train("erm", "pictograms", tmp_path / "run", stepz=3)
    with pytest.raises(UserError, match="--epsilon is an option of --method alignclip"):
        clipalign.train("erm", "pictograms", tmp_path / "run", epsilon=0.3)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"steps": 2.5}, "--steps must be an integer, not 2.5"),
        ({"lr": [1e-3]}, "--lr must be a number"),
        ({"optimizer": "lion"}, "--optimizer must be one of adamw, adam, sgd, not lion"),
        ({"momentum": 1.0}, r"--momentum must be in \[0, 1\), not 1"),
        ({"clip_grad_norm": 0}, "--clip-grad-norm must be above 0, not 0"),
        ({"lr": float("nan")}, "--lr must be at least 0, not nan"),
        ({"template": {"a": "b"}}, "--template must be"),
        ({"data_root": 3}, "--data-root must be a path"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_value_of_the_wrong_type_names_its_option(
    keywords: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        clipalign.train("erm", "pictograms", tmp_path / "run", **keywords)
    assert not (tmp_path / "run").exists()


def test_opened_data_set_gives_the_run_of_its_path(
    tiny_spec: str, squares_folder: Path, squares: ImageFolder, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"backbone": tiny_spec, "target": "grey", "steps": 2, "batch_size": 4}
    run = clipalign.train("erm", squares, tmp_path / "a", **options)
    again = clipalign.train("erm", squares_folder, tmp_path / "b", **options)
    files = [folder / "model.safetensors" for folder in (tmp_path / "a", tmp_path / "b")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert run.results[0].split_hash == again.results[0].split_hash
    rows = clipalign.evaluate(tmp_path / "a", squares, tmp_path / "e", protocol="domain-shift", target="grey")
    assert rows[0].accuracy == run.results[0].accuracy
    assert rows[0].command is not None and "--protocol domain-shift --target grey" in rows[0].command


def test_opened_data_set_without_captions_cannot_be_retrieved(
    tiny_spec: str, squares: ImageFolder, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="has no captions"):
        clipalign.train("infonce", squares, tmp_path / "run", backbone=tiny_spec)


def test_keywords_of_python_are_recorded_as_a_command(
    tiny_spec: str, squares_folder: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"backbone": tiny_spec, "target": "grey", "template": ["a {}.", "one {}."]}
    run = clipalign.train("zeroshot", squares_folder, tmp_path / "run", **options)
    command = str(run.results[0].command)
    assert command.startswith(f"clipalign train --method zeroshot --data {squares_folder} --out")
    assert command.endswith("--template 'a {}.' 'one {}.' --target grey")
    assert run.options.origins["template"] == "command line"
