"""Options of a training run, resolved from layers.

Later layers win: the fields' defaults, the recipe (`configs/recipes/`), with the published recipe the values
measured for the pocket backbone (`configs/pocket/METHOD.yaml`), the options of the run being resumed, `--config FILE`,
and what the command line or the Python call gives. The layer that set an option is recorded as its origin.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.config import (
    AverageOptions,
    DataOptions,
    ModelOptions,
    OptimiserOptions,
    RecipeOptions,
    ScheduleOptions,
    TrainConfig,
)
from ..core.errors import UserError
from ..core.fields import build, flat, options_of
from ..core.parsing import OptionParser, split_tokens, to_tokens
from ..core.version import __version__
from ..core.yaml_files import plain, read_yaml
from .recipes import PUBLISHED, RunFacts, recipe_layers, shipped_file
from .record import read_record

if TYPE_CHECKING:
    from ..methods.base import Method

GIVEN = "command line"  # origin of options of the command line, and of keywords of the Python API


@dataclass(frozen=True)
class TrainOptions:
    """Resolved options of a training run.

    Attributes:
        config: options of every method.
        method: the method's class.
        hyper: an instance of the method's `Config`.
        origins: option name -> layer that set it; options with the field's default are left out.
    """

    config: TrainConfig
    method: type[Method]
    hyper: Any
    origins: Mapping[str, str] = field(default_factory=dict)

    def flat(self) -> dict[str, Any]:
        """Return every option by name, in the types of YAML."""
        return {name: plain(value) for name, value in flat(self.config, self.hyper).items()}

    @property
    def recipe_changes(self) -> tuple[str, ...]:
        """Options that a layer above the recipe set: `configs/pocket/`, --config or the command line.

        These are the options of training, and `interpolation` and `names`, which recipes set for evaluation too.
        """
        training = (RecipeOptions, OptimiserOptions, ScheduleOptions, AverageOptions)
        names = options_of(*training) if self.method.iterates else {}
        names |= {name: options_of(DataOptions, ModelOptions)[name] for name in ("interpolation", "names")}
        recipe = self.config.recipe.recipe
        return tuple(
            name
            for name in names
            if name != "recipe"
            and names[name].facts.affects_result
            and self.origins.get(name, recipe).split(",")[0] != recipe
        )

    def row_fields(self, templates: Sequence[str], command: str) -> dict[str, Any]:
        """Return the fields of every result row of the run, on whatever data.

        Args:
            templates: prompt templates of the predictions.
            command: the one that wrote the row.
        """
        config, iterates = self.config, self.method.iterates
        return {
            "method": self.method.name,
            "backbone": config.model.backbone,
            "data": config.data.data,
            "target": config.split.target,
            "seed": config.run.seed,
            "template": " | ".join(templates),
            "lr": config.optimiser.lr if iterates else None,
            "lr_from": self.origins.get("lr", "default") if iterates else None,
            "recipe": config.recipe.recipe,
            "recipe_changes": ", ".join(self.recipe_changes) or None,
            "options": self.flat(),
            "command": command,
            "version": __version__,
        }


def train_options(tokens: Sequence[str], prog: str = "clipalign train") -> TrainOptions:
    """Resolve the options of a command line.

    Args:
        tokens: what follows the command's name.
        prog: how the command is called, for help texts.

    Raises:
        UserError: an unknown option or one of another method, a value that does not fit or is out of range, a
            file that cannot be read.
        SystemExit: after printing help.
    """
    _, groups = split_tokens(tokens)
    early: dict[str, Any] = {}
    for name, (head, *values) in groups:
        _, equals, value = head.partition("=")
        if name == "resume":
            early[name] = not head.startswith("--no")
        elif equals or values:
            early[name] = value if equals else values[0]
        elif name == "config":
            raise UserError("--config needs a file")
    return _resolve(early, lambda parser, lower: parser.parse(tokens, lower), prog)


def train_options_from(values: Mapping[str, Any]) -> TrainOptions:
    """Resolve options given in Python; `config` is the path of a YAML file.

    Raises:
        UserError: as `train_options`.
    """
    given = {name: value for name, value in values.items() if name != "config"}
    return _resolve(values, lambda parser, _: parser.convert(given), "clipalign train")


def train_command(values: Mapping[str, Any]) -> str:
    """Return the command of `clipalign train` with options given in Python."""
    from ..methods import get_method

    config = ["--config", str(values["config"])] if "config" in values else []
    hyper = get_method(str(values.get("method", ModelOptions.method))).Config
    rest = {name: value for name, value in values.items() if name != "config"}
    return shlex.join(["clipalign", "train", *config, *to_tokens(rest, TrainConfig, hyper)])


def train_parser(method: type[Method], prog: str = "clipalign train") -> OptionParser:
    """Return the parser of the options of `clipalign train` with a method."""

    def explain(name: str) -> str | None:
        from ..methods import all_methods

        owners = [m.name for m in all_methods() if name in options_of(m.Config)]
        if not owners:
            return None
        return f"is an option of --method {' or '.join(owners)}; it does not apply to --method {method.name}"

    titles = {method.Config: f"Method {method.name}"}
    return OptionParser(prog, TrainConfig, method.Config, explain=explain, titles=titles)


def _resolve(
    early: Mapping[str, Any], read: Callable[[OptionParser, Mapping[str, Any]], dict[str, Any]], prog: str
) -> TrainOptions:
    """Resolve options whose types are known only after the method is.

    Args:
        early: unconverted values of the highest layer.
        read: converts the highest layer with the parser; gets the values below it for help texts.
        prog: how the command is called.
    """
    from ..methods import get_method

    path = early.get("config")
    in_file = read_yaml(Path(path)) if path is not None else {}
    in_run, started_origins = resumed_options(
        early.get("out", in_file.get("out")), early.get("resume", in_file.get("resume"))
    )

    def first(name: str, default: str) -> str:
        return str(next((layer[name] for layer in (early, in_file, in_run) if layer.get(name)), default))

    method = get_method(first("method", ModelOptions.method))
    parser = train_parser(method, prog)
    recipe = parser.convert({"recipe": first("recipe", RecipeOptions.recipe)})["recipe"]
    layers = recipe_layers(recipe, _facts(first, method), method.published)
    # Measured values differ between methods, so they are no part of a comparison under one recipe.
    if recipe == PUBLISHED and is_pocket(first("backbone", ModelOptions.backbone)):
        pocket = shipped_config("pocket", method.name)
        layers.append((f"configs/pocket/{method.name}.yaml", read_yaml(pocket) if pocket else {}))
    layers += [("the run in --out", in_run), (str(path), in_file)]
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}

    def add(origin: str, layer: Mapping[str, Any]) -> None:
        if "steps" in layer and layer.get("epochs") is None:  # the newer statement of the length counts
            values.pop("epochs", None)
            origins.pop("epochs", None)
        values.update(layer)
        origins.update(dict.fromkeys(layer, origin))

    for origin, layer in layers:
        add(origin, parser.convert(layer, f"{origin}: "))
        if layer is in_run and in_run:  # an option keeps the origin that it had when the run was started
            for name in in_run:
                origins.pop(name, None)
            origins.update({name: origin for name, origin in started_origins.items() if name in in_run})
    given = {name: value for name, value in read(parser, values).items() if name != "config"}
    if given.get("epochs") is not None and given.get("steps") is not None:
        raise UserError("--epochs and --steps exclude each other: choose one")
    add(GIVEN, given)
    if values.get("dry_run"):
        values.setdefault("out", Path("unused"))  # required, but no run is written
    return TrainOptions(build(TrainConfig, values), method, build(method.Config, values), origins)


def _facts(first: Callable[[str, str], str], method: type[Method]) -> RunFacts:
    """Return the facts that select the parts of a recipe.

    Args:
        first: returns the value of an option in the highest layer that has it, or a default.
        method: the method's class.
    """
    from ..data.published.declarations import find_image_set
    from ..protocols import default_protocol

    backbone, data = first("backbone", ModelOptions.backbone), first("data", DataOptions.data)
    protocol = first("protocol", default_protocol(method.learns_from == "captions"))
    published = find_image_set(data)
    return RunFacts(
        method=method.name,
        backbone="pocket" if is_pocket(backbone) else backbone,
        shots=first("shots", "16" if protocol in ("few-shot", "imagenet-shift") else "all"),
        data=data if published is None else published.name,
        variant=first("variant", "paper"),
        protocol=protocol,
    )


def resumed_options(out: str | Path | None, resume: bool | None) -> tuple[dict[str, Any], Mapping[str, str]]:
    """Return the options that the run in `out` was started with, and their origins, if it is to be resumed."""
    path = None if out is None or resume is not True else Path(out) / "config.yaml"
    if path is None or not path.is_file():
        return {}, {}
    stored = read_yaml(path)
    values = {name: value for name, value in stored.items() if name not in ("out", "resume", "overwrite")}
    return values, read_record(path).origins


def shipped_config(backbone: str, method: str) -> Path | None:
    """Return the file of measured defaults of a method on a backbone, in an installed package or a checkout."""
    return shipped_file(backbone, f"{method}.yaml")


def is_pocket(backbone: str) -> bool:
    """Return whether a backbone is the shipped one, with random weights or another image size too."""
    return re.split("[:@]", backbone)[0] == "pocket"
